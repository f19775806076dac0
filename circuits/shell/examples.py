"""How every command and every action is used: two examples each, at the end of its help."""

EXAMPLES = {
    "discover": (
        "circuits discover --model toy --task ioi --out runs/ioi",
        "circuits discover --model gpt2 --task facts.json --method relp --out runs/facts",
    ),
    "score": (
        "circuits score --model toy --task ioi --method eap-ig --steps 5 --out scores.safetensors",
        "circuits score --model gpt2 --task ioi --ablation mean --run runs/s --out m.safetensors",
    ),
    "select": (
        "circuits select scores.safetensors --size 200 --prune --out circuit.json",
        "circuits select scores.safetensors --size 50 --selector program --out circuit.json",
    ),
    "learn": (
        "circuits learn --model toy --task ioi --size 100 --out runs/learned",
        "circuits learn --model toy --task ioi --method ugs --size 100 --out runs/ugs",
    ),
    "search": (
        "circuits search --model toy --task ioi --method acdc --threshold 0.01 --out circuit.json",
        "circuits search --model toy --task ioi --method budgeted --size 48 --out circuit.json",
    ),
    "evaluate": (
        "circuits evaluate --model toy --task ioi circuit.json",
        "circuits evaluate --model gpt2 --task ioi a.json b.json --ablation zero --json",
    ),
    "curve": (
        "circuits curve --model toy --task ioi scores.safetensors --plot curve.pdf",
        "circuits curve --model toy --task ioi eap.safetensors relp.safetensors --sizes 10,50,200",
    ),
    "rivals": (
        "circuits rivals scores.safetensors --model toy --task ioi --out runs/rivals",
        "circuits rivals s.safetensors --model gpt2 --task ioi --overlap 0.05 --most 5 --out r",
    ),
    "clusters": (
        "circuits clusters scores.safetensors --model toy --task ioi --size 60",
        "circuits clusters s.safetensors --model gpt2 --task facts.json --groups 4 --json",
    ),
    "transfer": (
        "circuits transfer --model toy --task ioi --to ioi:swap --size 60",
        "circuits transfer --model gpt2 --task a.json --to b.json,c.json --method relp --json",
    ),
    "compare": (
        "circuits compare a.json b.json --difference only-in-a.json",
        "circuits compare eap.safetensors relp.safetensors --plot compared.pdf",
    ),
    "export": (
        "circuits export circuit.json --out circuit.svg --out circuit.pdf --width column",
        "circuits export circuit.json --out circuit.graphml",
    ),
    "report": (
        "circuits report runs/ioi",
        "circuits report runs/ioi --out paper --width column",
    ),
    "view": (
        "circuits view runs/ioi --open",
        "circuits view circuit.json --scores scores.safetensors --curve curve.json",
    ),
    "show": (
        "circuits show runs/ioi",
        "circuits show scores.safetensors --top 50 --ranking signed",
    ),
    "rerun": (
        "circuits rerun runs/ioi",
        "circuits rerun scores.safetensors --model models/gpt2 --device cuda",
    ),
    "methods": ("circuits methods", "circuits methods | less"),
    "patch": (
        "circuits patch --model toy --task ioi --what head --out runs/heads",
        "circuits patch --model gpt2 --task ioi --what resid --method relp --out runs/stream",
    ),
    "lens": (
        'circuits lens --model toy --prompt "The capital of France is"',
        "circuits lens --model toy --task ioi --out runs/lens",
    ),
    "neurons": (
        "circuits neurons --model toy --task conflict --method ircan --top 16 --out runs/neurons",
        'circuits neurons --apply runs/neurons/neurons.json --beta 4 --prompt "The capital of"',
    ),
    "features": (
        'circuits features trace --model toy --prompt "The capital of" --out graph.safetensors',
        "circuits features view graph.safetensors --model toy --out page.html",
    ),
    "features trace": (
        'circuits features trace --model toy --prompt "The capital of" --out graph.safetensors',
        'circuits features trace --model toy --prompt "The capital of" --out g.json --aim " the"',
    ),
    "features effects": (
        "circuits features effects --model toy --task ioi --out effects.safetensors",
        "circuits features effects --model toy --task ioi --exact 20 --out effects.csv",
    ),
    "features circuit": (
        "circuits features circuit --model toy --task ioi --nodes 50 --out circuit.safetensors",
        "circuits features circuit --model toy --task ioi --curve --plot curve.svg",
    ),
    "features few": (
        "circuits features few --model toy --task ioi --keep 20 --out units.json",
        "circuits features few --model gpt2 --task ioi --keep 80 --holdout 0.5",
    ),
    "features show": (
        "circuits features show graph.safetensors --top 50",
        "circuits features show graph.json --json",
    ),
    "features export": (
        "circuits features export circuit.safetensors --out circuit.graphml --out circuit.svg",
        "circuits features export graph.safetensors --out graph.tex --width page",
    ),
    "features view": (
        "circuits features view graph.safetensors --out graph.html",
        "circuits features view graph.safetensors --model toy --out graph.html",
    ),
    "features check": (
        "circuits features check transcoders --model toy",
        "circuits features check saes --model gpt2 --text book.txt --n 64",
    ),
    "features train": (
        "circuits features train --model toy --out transcoders",
        "circuits features train --model gpt2 --sites resid --text book.txt --out saes",
    ),
    "doctor": (
        "circuits doctor --model toy",
        "circuits doctor --model gpt2 --task facts.json --json",
    ),
    "tasks": ("circuits tasks", "circuits tasks --model gpt2"),
}


def examples_of(command: str) -> str:
    """The two examples of a command, for the end of its help."""
    return "\n".join(("examples:", *(f"  {line}" for line in EXAMPLES[command])))

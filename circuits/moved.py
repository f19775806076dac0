"""Where modules of `circuits` have moved to; see `patching.moved`."""

_ROOMS = {
    "drawing": "canvas layout pictures placement plots role_pictures roles",
    "export": "networks",
    "judging": "areas chance compare completeness curves faithfulness minimality points recovery "
    "shapley stability subsets uncertainty verification",
    "reporting": "measurements neuron_report report",
    "running": "evaluation inside pair plan trial",
    "search": "programming",
}
MOVES = {
    **{
        f"circuits.{name}": f"circuits.{room}.{name}"
        for room in _ROOMS
        for name in _ROOMS[room].split()
    },
    "circuits.circuit_pass": "circuits.running.batched",
    "circuits.intervention": "circuits.running.many",
    **{f"circuits.export.{name}": f"circuits.drawing.{name}" for name in ("latex", "tikz")},
    "circuits.learning.masked": "circuits.running.masked",
    "circuits.scoring.steered": "circuits.running.steered",
}

"""Small dictionaries in every published format, written as the descriptions say, and their twins.

Each writer returns what the publishing program would compute from the same tensors, written out
in its own convention: `(x) -> (f, y_hat)`. Nothing here comes to the one form.
"""

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

D_IN, N, D_OUT = 5, 12, 4


class Drawn:
    """Random tensors that are the same in every test."""

    def __init__(self, seed: int = 0) -> None:
        self._random = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self._random)

    def above_zero(self, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self._random) + 0.1


def relu(z):
    return z.relu()


def jump(theta):
    return lambda z: z.relu() * (z > theta)


def top_k(k):
    def function(z):
        top = z.relu().topk(k, dim=-1)
        return torch.zeros_like(z).scatter(-1, top.indices, top.values)

    return function


def save(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)


def saelens(folder, kind="standard", *, applies=None, old=False, activation=None):
    """SAELens; `applies` is whether b_dec is subtracted from the input, None for its default."""
    crosses = "transcoder" in kind
    tensors = _saelens_tensors(kind, D_OUT if crosses else D_IN)
    said = _saelens_settings(kind, old=old, activation=activation)
    said |= {} if applies is None else {"apply_b_dec_to_input": applies}
    renamed = {**tensors}
    if old and "threshold" in tensors:
        renamed["log_threshold"] = renamed.pop("threshold").log()
    save(folder, "sae_weights.safetensors", renamed)
    (folder / "cfg.json").write_text(json.dumps(said))
    subtracts = (not crosses) if applies is None else applies
    act = jump(tensors["threshold"]) if "jumprelu" in kind else relu
    act = top_k(3) if "topk" in (kind, activation) else act

    def twin(x):
        f = _saelens_f(tensors, x - tensors["b_dec"] if subtracts else x, act)
        y = f @ tensors["W_dec"] + tensors["b_dec"]
        return f, y + x @ tensors["W_skip"].T if "skip" in kind else y

    return twin


def _saelens_f(tensors, x, act):
    u = x @ tensors["W_enc"]
    if "r_mag" not in tensors:
        return act(u + tensors["b_enc"])
    return (u + tensors["b_gate"] > 0) * (tensors["r_mag"].exp() * u + tensors["b_mag"]).relu()


def _saelens_tensors(kind, d_out):
    draw = Drawn()
    tensors = {"W_enc": draw(D_IN, N), "W_dec": draw(N, d_out), "b_dec": draw(d_out)}
    if kind == "gated":
        tensors |= {"b_gate": draw(N), "b_mag": draw(N), "r_mag": draw(N) * 0.3}
    else:
        tensors["b_enc"] = draw(N)
    tensors |= {"threshold": draw.above_zero(N)} if "jumprelu" in kind else {}
    return tensors | ({"W_skip": draw(d_out, D_IN)} if "skip" in kind else {})


def _saelens_settings(kind, *, old, activation):
    about = {"model_name": "toy", "hook_name": "blocks.1.hook_resid_post", "prepend_bos": True}
    if "transcoder" in kind:
        about |= {"hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    said = {"architecture": kind, "d_in": D_IN, "d_sae": N, "dtype": "float32"}
    if not old:
        k = {"k": 3} if kind == "topk" else {}
        return said | k | {"metadata": about, "normalize_activations": "none"}
    said |= {"hook_point": about.pop("hook_name"), **about, "normalize_activations": False}
    function = {"activation_fn_str": activation, "activation_fn_kwargs": {"k": 3}}
    return said | (function if activation else {})


def gemma_scope(folder, *, lower=False, embedding=False):
    draw = Drawn(1)
    w_enc, w_dec, b_enc, b_dec = draw(D_IN, N), draw(N, D_IN), draw(N), draw(D_IN)
    theta = draw.above_zero(N)
    folder.mkdir(parents=True)
    w = "w" if lower else "W"
    arrays = {f"{w}_enc": w_enc, f"{w}_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec}
    arrays["threshold"] = theta
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in arrays.items()})
    scale = D_IN**-0.5 if embedding else 1.0

    def twin(x):
        f = jump(theta)(x * scale @ w_enc + b_enc)
        return f, (f @ w_dec + b_dec) / scale

    return twin


def gemma_scope_2(folder, *, affine=True):
    draw = Drawn(2)
    w_enc, w_dec, b_enc, b_dec = draw(D_IN, N), draw(N, D_OUT), draw(N), draw(D_OUT)
    theta, skip = draw.above_zero(N), draw(D_IN, D_OUT)
    tensors = {"w_enc": w_enc, "w_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec, "threshold": theta}
    save(
        folder, "params.safetensors", tensors | ({"affine_skip_connection": skip} if affine else {})
    )
    said = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-4b-it",
        "hf_hook_point_in": "model.layers.5.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.5.post_feedforward_layernorm.output",
        "l0": 20,
    }
    (folder / "config.json").write_text(json.dumps(said))

    def twin(x):
        f = jump(theta)(x @ w_enc + b_enc)
        return f, f @ w_dec + b_dec + (x @ skip if affine else 0)

    return twin


def gemma_scope_2_clt(folder, n_layers=3):
    """What is rebuilt at layer l, from inputs of all layers."""
    draw = Drawn(3)
    layers = [
        {
            "w_enc": draw(D_IN, N),
            "w_dec": draw(N, n_layers, D_OUT),
            "b_enc": draw(N),
            "b_dec": draw(D_OUT),
            "threshold": draw.above_zero(N),
        }
        for _ in range(n_layers)
    ]
    for i, tensors in enumerate(layers):
        save(folder, f"params_layer_{i}.safetensors", tensors)
    said = {
        "architecture": "jump_relu",
        "hf_hook_point_in": "model.layers.0.pre_feedforward_layernorm.output",
        "hf_hook_point_out": "model.layers.0.post_feedforward_layernorm.output",
    }
    (folder / "config.json").write_text(json.dumps(said))

    def twin(x):
        f = [jump(t["threshold"])(x @ t["w_enc"] + t["b_enc"]) for t in layers]
        at = range(n_layers)
        return f, [
            layers[to]["b_dec"] + sum(f[i] @ layers[i]["w_dec"][:, to] for i in range(to + 1))
            for to in at
        ]

    return twin


def dictionary_learning(folder, kind="AutoEncoder", *, said=True):
    draw = Drawn(4)
    w_enc, w_dec, b_enc, b_dec = draw(N, D_IN), draw(D_IN, N), draw(N), draw(D_IN)
    tensors = {"encoder.weight": w_enc, "decoder.weight": w_dec}
    act, subtracts = relu, kind != "AutoEncoderNew"
    if kind == "GatedAutoEncoder":
        gate, mag, r = draw(N), draw(N), draw(N) * 0.3
        tensors |= {"decoder_bias": b_dec, "r_mag": r, "gate_bias": gate, "mag_bias": mag}
    elif kind == "JumpReluAutoEncoder":
        theta, subtracts = draw.above_zero(N), False
        tensors = {"W_enc": w_enc.T, "W_dec": w_dec.T, "b_enc": b_enc, "b_dec": b_dec}
        tensors |= {"threshold": theta}
        act = jump(theta)
    elif kind in ("AutoEncoder", "AutoEncoderNew"):
        tensors["encoder.bias"] = b_enc
        tensors["bias" if kind == "AutoEncoder" else "decoder.bias"] = b_dec
    else:
        theta, k = torch.tensor(0.8), torch.tensor(3)
        tensors |= {"encoder.bias": b_enc, "b_dec": b_dec, "k": k, "threshold": theta}
        act = top_k(3) if kind == "AutoEncoderTopK" else jump(theta)
    folder.mkdir(parents=True)
    torch.save({key: value.contiguous() for key, value in tensors.items()}, folder / "ae.pt")
    trainer = {"submodule_name": "resid_post_layer_2", "lm_name": "toy", "layer": 2}
    trainer |= {"dict_class": kind} if said else {}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer}))

    def twin(x):
        u = (x - b_dec if subtracts else x) @ w_enc.T
        if kind == "GatedAutoEncoder":
            f = (u + gate > 0) * (r.exp() * u + mag).relu()
        else:
            f = act(u + b_enc)
        return f, f @ w_dec.T + b_dec

    return twin


def sparsify(folder, *, transcode=True):
    draw = Drawn(5)
    d_out = D_OUT if transcode else D_IN
    w_enc, w_dec, b_enc, b_dec = draw(N, D_IN), draw(N, d_out), draw(N), draw(d_out)
    skip = draw(d_out, D_IN)
    tensors = {"encoder.weight": w_enc, "encoder.bias": b_enc, "W_dec": w_dec, "b_dec": b_dec}
    save(folder, "sae.safetensors", tensors | ({"W_skip": skip} if transcode else {}))
    said = {"activation": "topk", "k": 3, "transcode": transcode, "d_in": D_IN}
    (folder / "cfg.json").write_text(json.dumps(said))

    def twin(x):
        f = top_k(3)((x if transcode else x - b_dec) @ w_enc.T + b_enc)
        return f, f @ w_dec + b_dec + (x @ skip.T if transcode else 0)

    return twin


def circuit_tracer(folder, kind="relu", n_layers=2, listed=False):
    """One twin a layer."""
    draw, twins = Drawn(6), []
    for layer in range(n_layers):
        w_enc, w_dec, b_enc, b_dec = draw(N, D_IN), draw(N, D_OUT), draw(N), draw(D_OUT)
        theta, skip = draw.above_zero(N), draw(D_OUT, D_IN)
        tensors = {"W_enc": w_enc, "W_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec}
        tensors |= {"activation_function.threshold": theta} if kind == "jump_relu" else {}
        tensors |= {"W_skip": skip} if kind == "skip" else {}
        save(folder, f"layer_{layer}.safetensors", tensors)
        act = {"jump_relu": jump(theta), "topk": top_k(3)}.get(kind, relu)

        def twin(x, w=w_enc, b=b_enc, out=w_dec, c=b_dec, act=act, skip=skip):
            f = act(x @ w.T + b)
            return f, f @ out + c + (x @ skip.T if kind == "skip" else 0)

        twins.append(twin)
    said = {"model_name": "toy", "model_kind": "transcoder_set", "scan": "toy"}
    said |= {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    said |= {"activation": "topk", "k": 3} if kind == "topk" else {}
    said |= {"transcoders": [f"layer_{i}.safetensors" for i in range(n_layers)]} if listed else {}
    (folder / "config.yaml").write_text(yaml.safe_dump(said))
    return twins


def circuit_tracer_clt(folder, n_layers=3, *, skip=True):
    draw = Drawn(7)
    layers = []
    for i in range(n_layers):
        w_enc, w_dec = draw(N, D_IN), draw(N, n_layers - i, D_OUT)
        b_enc, b_dec, theta = draw(N), draw(D_OUT), draw.above_zero(N)
        w_skip = draw(D_IN, D_OUT)
        tensors = {f"W_enc_{i}": w_enc, f"b_enc_{i}": b_enc, f"b_dec_{i}": b_dec}
        tensors |= {f"threshold_{i}": theta} | ({f"W_skip_{i}": w_skip} if skip else {})
        save(folder, f"W_enc_{i}.safetensors", tensors)
        save(folder, f"W_dec_{i}.safetensors", {f"W_dec_{i}": w_dec})
        layers.append((w_enc, w_dec, b_enc, b_dec, theta, w_skip))

    def twin(x):
        f = [jump(theta)(x @ w.T + b) for w, _, b, _, theta, _ in layers]
        return f, [
            layers[to][3]
            + (x @ layers[to][5] if skip else 0)
            + sum(f[i] @ layers[i][1][:, to - i] for i in range(to + 1))
            for to in range(n_layers)
        ]

    return twin


def llama_scope(folder, *, decoder_norm=True, transcoder=True):
    draw = Drawn(8)
    d_out = D_OUT if transcoder else D_IN
    w_enc, w_dec, b_enc, b_dec = draw(N, D_IN), draw(d_out, N), draw(N), draw(d_out)
    tensors = {"encoder.weight": w_enc, "encoder.bias": b_enc}
    tensors |= {"decoder.weight": w_dec, "decoder.bias": b_dec}
    save(folder, "checkpoints/final.safetensors", tensors)
    norms = {"in": 3.0, "out": 7.0}
    said = {
        "hook_point_in": "blocks.8.ln2.hook_normalized",
        "hook_point_out": "blocks.8.hook_mlp_out",
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.3,
        "top_k": 50,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": norms,
        "sparsity_include_decoder_norm": decoder_norm,
        "apply_decoder_bias_to_pre_encoder": False,
    }
    (folder / "hyperparams.json").write_text(json.dumps(said))

    def twin(x):
        s_in, s_out = D_IN**0.5 / norms["in"], d_out**0.5 / norms["out"]
        z = (x * s_in) @ w_enc.T + b_enc
        held = z * w_dec.norm(dim=0) if decoder_norm else z
        f = z.relu() * (held > 0.3 * s_in)
        return f, (f @ w_dec.T + b_dec) / s_out

    return twin

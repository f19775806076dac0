"""Laying a model over devices: what is asked for, and what cannot be."""

import copy

import families
import pytest
import torch
from torch import nn

from patching.anatomy.spread import Spread, check_spread, device_map_of
from patching.model import Model


@pytest.mark.parametrize("n_devices", [None, 1])
def test_one_device_is_no_spread(n_devices):
    assert Spread.over(None, n_devices, "cpu" if n_devices is None else None) is None


def test_a_map_is_handed_on():
    assert Spread.over("balanced", None, None).options() == {"device_map": "balanced"}
    spread = Spread.over({"model": 0, "lm_head": "cuda:1"}, None, None)
    assert spread.options() == {"device_map": {"model": 0, "lm_head": "cuda:1"}}
    assert hash(spread) == hash(Spread.over({"model": 0, "lm_head": "cuda:1"}, None, None))


def test_a_number_of_gpus_becomes_a_balanced_map(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(
        "transformer_lens.utilities.multi_gpu._get_available_cuda_memory_for_device", lambda i: 10
    )
    expected = {"device_map": "balanced", "max_memory": {0: 10, 1: 10}}
    assert Spread.over(None, 2, None).options() == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("auto", None, "cuda"), "^device and device_map exclude each other: give one$"),
        ((None, 2, "cuda"), "^device and n_devices exclude each other"),
        (("auto", 2, None), "^device_map and n_devices exclude each other"),
        ((None, 0, None), "1 device or more, got n_devices=0"),
        (({"model": 0, "lm_head": "cpu"}, None, None), r"mixes the CPU with GPUs, .*\(n_devices=2"),
        (({"model": 0, "lm_head": "disk"}, None, None), "leaves lm_head on disk: .*GPUs alone"),
        (({"": "meta"}, None, None), "leaves the model on meta"),
    ],
)
def test_what_cannot_be_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        Spread.over(*asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_gpus_that_are_not_there_are_refused(tmp_path):
    families.module("gpt2", torch.float32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="n_devices=2 requires CUDA"):
        Model.load(tmp_path, n_devices=2)


def test_a_folder_is_loaded_as_the_map_says(tmp_path):
    families.module("gpt2", torch.float32).save_pretrained(tmp_path)
    model = Model.load(tmp_path, device_map={"transformer": "cpu", "lm_head": "cpu"})
    assert model.device == torch.device("cpu")
    assert copy.copy(model).weights == model.weights  # it can be sent, map and all


def test_an_embedded_model_is_not_spread():
    with pytest.raises(ValueError, match="toy is embedded and fits anywhere"):
        Model.load("toy", device_map={"": "cpu"})


def test_a_module_in_memory_is_not_moved():
    with pytest.raises(ValueError, match="a model in memory stays where it lies"):
        Model.load(families.module("gpt2", torch.float32), device_map="auto")


def mapped(where: dict[str, object]) -> nn.Module:
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    module.hf_device_map = where
    return module


def test_gpus_with_too_little_room_are_said_to_be_so():
    with pytest.raises(ValueError, match="tiny, with too little room on its GPUs, mixes the CPU"):
        check_spread("tiny", mapped({"0": 0, "1": "cpu"}))


def test_a_part_that_came_to_lie_elsewhere_is_named():
    with pytest.raises(ValueError, match="puts 1 on 1, but it shares weights .* on cpu; give both"):
        check_spread("tiny", mapped({"1": 1}))


def test_devices_are_told_in_plain_values():
    found = device_map_of(mapped({"0": torch.device("cuda", 1), "1": 0}))
    assert found == {"0": "cuda:1", "1": 0}
    assert device_map_of(nn.Linear(1, 1)) is None

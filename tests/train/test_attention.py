"""Which attention a run takes: flash and flex only where they work, which is tried first."""

from types import SimpleNamespace

import pytest
import torch

from anyglot.errors import ConfigError
from anyglot.lm import attention as kernels
from anyglot.train import attention as module
from anyglot.train.attention import choose_attention
from tests.lm.flash_twin import flash_twin

CPU, GPU = torch.device("cpu"), SimpleNamespace(type="cuda")
SHAPE = {"model_type": "qwen3", "hidden_size": 32, "num_attention_heads": 2, "attention_dropout": 0.0}
MODEL = SimpleNamespace(config=SimpleNamespace(**SHAPE), _supports_attention_backend=True)


@pytest.fixture
def machine(monkeypatch):
    """A machine with a GPU of this capability and this flash attention; what is computed is computed on the CPU."""

    def make(flash=flash_twin, capability=8):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (capability, 0))
        for where in (kernels, module):
            monkeypatch.setattr(where, "flash_function", lambda _: ("a twin", flash) if flash else None)
        probe = module._probe
        monkeypatch.setattr(module, "_probe", lambda backend, _, dtype: probe(backend, CPU, torch.float32))

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_takes_flash_one_document_at_a_time(dtype):
    attention, said = choose_attention("auto", MODEL, CPU, dtype)
    assert (attention.backend, said) == ("flash", "flash of torch, document by document")
    assert choose_attention("sdpa", MODEL, CPU, dtype)[1] == "sdpa with a mask"


def test_dropout_takes_sdpa_and_says_why():
    dropping = SimpleNamespace(
        config=SimpleNamespace(**SHAPE | {"attention_dropout": 0.1}), _supports_attention_backend=True
    )
    attention, said = choose_attention("auto", dropping, CPU, torch.float32)
    assert attention.backend == "sdpa"
    assert said == "sdpa with a mask; flash has no dropout, and model.attention_dropout is not 0"


def test_a_gpu_takes_flash_where_it_gives_what_sdpa_gives(machine):
    machine()
    attention, said = choose_attention("auto", MODEL, GPU, torch.bfloat16)
    assert (attention.backend, said) == ("flash", "flash of a twin")


def leaky(query, key, value, starts, longest, scale):
    return flash_twin(query, key, value, starts[[0, -1]], int(starts[-1]), scale)


def broken(*_):
    raise RuntimeError("no kernel image is available\nfor this device")


@pytest.mark.parametrize(
    ("flash", "reason"),
    [
        (leaky, "flash fails here: its result is not sdpa's"),
        (broken, "flash fails here: RuntimeError: no kernel image is available"),
        (lambda *a: flash_twin(*a) * torch.nan, "flash fails here: its result is not sdpa's"),
        (lambda q, k, *a: flash_twin(q, k.detach() + 0 * k, *a), "flash fails here: its key's gradient is not sdpa's"),
    ],
)
def test_a_kernel_that_leaks_or_fails_is_not_taken(machine, flash, reason):
    machine(flash)
    attention, said = choose_attention("auto", MODEL, GPU, torch.bfloat16)
    assert (attention.backend, said) == ("sdpa", f"sdpa with a mask; {reason}")
    with pytest.raises(ConfigError, match=f"attention=flash: {reason}; set attention=auto"):
        choose_attention("flash", MODEL, GPU, torch.bfloat16)


@pytest.mark.parametrize(
    ("name", "device", "dtype", "changed", "capability", "message"),
    [
        ("fast", CPU, torch.float32, {}, 8, "attention is 'fast'; valid: auto, sdpa, flex, flash"),
        ("flex", CPU, torch.bfloat16, {}, 8, "attention=flex: flex does not train on cpu"),
        ("flash", SimpleNamespace(type="mps"), torch.bfloat16, {}, 8, "flash does not train on mps"),
        ("flash", CPU, torch.bfloat16, {"attention_dropout": 0.1}, 8, "flash has no dropout"),
        ("flash", CPU, torch.bfloat16, {"attn_logit_softcapping": 50.0}, 8, "flash has no soft cap, and qwen3 has one"),
        ("flex", GPU, torch.bfloat16, {"attention_dropout": 0.1}, 8, "flex has no dropout"),
        ("flash", GPU, torch.float32, {}, 8, "needs precision=bf16"),
        ("flash", GPU, torch.bfloat16, {}, 7, "compute capability 8.0"),
        ("flash", GPU, torch.bfloat16, {"head_dim": 20}, 8, "heads of a multiple of 8 up to 256, not 20"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(machine, name, device, dtype, changed, capability, message):
    machine(capability=capability)
    model = SimpleNamespace(config=SimpleNamespace(**SHAPE | changed), _supports_attention_backend=True)
    with pytest.raises(ConfigError) as caught:
        choose_attention(name, model, device, dtype)
    assert message in str(caught.value)


def test_an_old_torch_without_flash_attn_takes_sdpa(machine):
    machine(flash=None)
    said = choose_attention("auto", MODEL, GPU, torch.bfloat16)[1]
    assert said == "sdpa with a mask; flash needs torch 2.12 or flash-attn"


def test_an_architecture_with_attention_of_its_own_keeps_it():
    own = SimpleNamespace(config=SimpleNamespace(**SHAPE | {"model_type": "mamba"}), _supports_attention_backend=False)
    assert (
        choose_attention("auto", own, CPU, torch.float32)[1] == "sdpa with a mask; mamba takes no attention but its own"
    )

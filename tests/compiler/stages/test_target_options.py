"""What a spec's quantization asks of each target."""

import pytest

from xamc.artifact.manifest import Quantization
from xamc.compiler.spec import load_spec
from xamc.compiler.stages.target_options import target_options
from xamc.errors import InputError, UnsupportedError
from xamc.ir.weights.quantize import RoundToNearest
from xamc.targets.registry import CAPS
from xamc.targets.request import TargetOptions


def _request(
    quantize: str,
    dtype: str,
    target: str = "tvm_vacc",
    allow_rtn: bool = False,
    compile: dict[str, str] | None = None,
    **runtime: str,
) -> tuple[TargetOptions, Quantization]:
    spec = {
        "frontend": {"checkpoint": "model", "shape": {"input_ids": [[16], [32]]}, "quantize": {"type": quantize}},
        "backend": {"type": target, "dtype": dtype, "compile": compile or {}},
        "runtime": runtime,
    }
    kind, _, group = quantize.partition("/")
    spec["frontend"]["quantize"] = {"type": kind} | ({"group_size": int(group)} if group else {})
    return target_options(load_spec(spec).spec, CAPS[target], allow_rtn)


def test_gptq_on_vacc_needs_leave_to_round() -> None:
    with pytest.raises(UnsupportedError) as error:
        _request("w8a16_gptq", "int8")
    assert error.value.code == "E1408" and error.value.exit_code == 3
    assert "--allow-rtn" in error.value.fix and "w8a16_rtn" in error.value.fix
    request, quantization = _request("w8a16_gptq", "int8", allow_rtn=True)
    assert quantization == Quantization("w8a16_gptq", "w8a16_rtn")
    assert request.quantize == RoundToNearest(8, None) and request.kv_dtype == "float16"
    assert _request("w8a16_rtn", "int8") == (request, Quantization("w8a16_rtn", "w8a16_rtn"))


@pytest.mark.parametrize(
    ("target", "asked", "used"),
    [
        ("tvm_cpu", None, "int16"),
        ("tvm_cpu", "auto", "int16"),
        ("tvm_cpu", "int8", "int8"),
        ("tvm_cpu", "int16", "int16"),
        ("tvm_cpu", "bfloat16", "bfloat16"),
        ("tvm_cpu", "float32", "float32"),
        ("reference", "int8", "float32"),
    ],
)
def test_integer_weights_are_multiplied_in_integers_where_the_target_can(target: str, asked: str, used: str) -> None:
    request, quantization = _request(
        "w4a16_rtn", "int4", target, compile={} if asked is None else {"activations": asked}
    )
    assert request.activations == quantization.activations == used


def test_8_bit_weights_are_multiplied_with_16_bits_unless_8_are_asked_for() -> None:
    """With 8 they would lie beyond the bound of a default, as docs/kernels.md shows."""
    assert _request("w8a16_rtn", "int8", "tvm_cpu")[0].activations == "int16"
    assert _request("w8a16_rtn", "int8", "tvm_cpu", compile={"activations": "int8"})[0].activations == "int8"


@pytest.mark.parametrize(("dtype", "used"), [("fp32", "float32"), ("fp16", "float32"), ("bf16", "bfloat16")])
def test_weights_that_are_not_integers_are_not_multiplied_in_less_than_they_have(dtype: str, used: str) -> None:
    spec = {
        "frontend": {"checkpoint": "model", "shape": {"input_ids": [[16], [32]]}},
        "backend": {"type": "tvm_cpu", "dtype": dtype},
    }
    assert target_options(load_spec(spec).spec, CAPS["tvm_cpu"], False)[0].activations == used
    spec["backend"]["compile"] = {"activations": "bfloat16"}
    assert target_options(load_spec(spec).spec, CAPS["tvm_cpu"], False)[0].activations == "bfloat16"


@pytest.mark.parametrize("asked", ["int8", "int16"])
def test_integer_activations_go_with_integer_weights(asked: str) -> None:
    spec = {
        "frontend": {"checkpoint": "model", "shape": {"input_ids": [[16], [32]]}},
        "backend": {"type": "tvm_cpu", "dtype": "fp16", "compile": {"activations": asked}},
    }
    with pytest.raises(UnsupportedError, match=r"E1410.*integer weights") as error:
        target_options(load_spec(spec).spec, CAPS["tvm_cpu"], False)
    assert "backend.compile.activations" in error.value.keys
    spec["backend"]["compile"] = {}
    assert target_options(load_spec(spec).spec, CAPS["tvm_cpu"], False)[0].activations == "float32"


@pytest.mark.parametrize("dtype", ["int8", "fp16"])
def test_kv8_keeps_weights_in_float16(dtype: str) -> None:
    request, quantization = _request("w16kv8", dtype)
    assert (request.weight_dtype, request.quantize, request.kv_dtype) == ("float16", None, "int8")
    assert quantization == Quantization("w16kv8", "w16kv8")


def test_an_int8_cache_is_asked_for_where_a_target_needs_no_calibration() -> None:
    assert _request("w4a16_rtn", "int4", target="tvm_cpu", kv_dtype="int8")[0].kv_dtype == "int8"
    with pytest.raises(UnsupportedError) as error:
        _request("w8a16_rtn", "int8", kv_dtype="int8")
    assert error.value.code == "E1410" and "fp16" in error.value.fix


def test_kv8_and_another_kv_dtype_disagree() -> None:
    with pytest.raises(InputError) as error:
        _request("w16kv8", "int8", kv_dtype="fp16")
    assert error.value.code == "E1344" and "runtime.kv_dtype" in error.value.message


@pytest.mark.parametrize(("quantize", "dtype"), [("w4a16_rtn", "int4"), ("w4a16_gptq", "int4")])
def test_four_bits_are_not_vaccs(quantize: str, dtype: str) -> None:
    """Also with --allow-rtn, which would use a type that the target doesn't have either."""
    for allow in (False, True):
        with pytest.raises(UnsupportedError) as error:
            _request(quantize, dtype, allow_rtn=allow)
        assert error.value.code == "E1408" and "w8a16_rtn, w16kv8" in error.value.fix


def test_groups_are_not_vaccs() -> None:
    with pytest.raises(UnsupportedError) as error:
        _request("w8a16_rtn/128", "int8")
    assert error.value.code == "E1343" and "frontend.quantize.group_size is 128" in error.value.message
    assert _request("w8a16_rtn/-1", "int8")[0].quantize == RoundToNearest(8, None)


def test_the_cpu_is_as_before() -> None:
    assert _request("w8a16_gptq/128", "int8", "tvm_cpu", allow_rtn=True)[0].quantize == RoundToNearest(8, 128)
    assert _request("w4a16_rtn", "int4", "tvm_cpu")[0].quantize == RoundToNearest(4, 32)
    with pytest.raises(UnsupportedError) as error:
        _request("w16kv8", "int8", "tvm_cpu")
    assert error.value.code == "E1408" and "an int8 KV cache" in error.value.message


@pytest.mark.parametrize(
    ("target", "dtype", "cache"),
    [
        ("tvm_cpu", "bf16", "bfloat16"),  # whose keys may lie beyond float16
        ("tvm_cpu", "fp16", "float16"),
        ("tvm_cpu", "fp32", "float32"),
        ("reference", "bf16", "float32"),
        ("tvm_vacc", "fp16", "float16"),
    ],
)
def test_a_cache_has_the_range_of_the_weights(target: str, dtype: str, cache: str) -> None:
    spec = {
        "frontend": {"checkpoint": "model", "shape": {"input_ids": [[16], [32]]}},
        "backend": {"type": target, "dtype": dtype},
    }
    assert target_options(load_spec(spec).spec, CAPS[target], False)[0].kv_dtype == cache
    spec["runtime"] = {"kv_dtype": "fp32"}
    if target != "tvm_vacc":
        assert target_options(load_spec(spec).spec, CAPS[target], False)[0].kv_dtype == "float32"


def test_scales_from_a_file_are_those_of_keys_with_their_biases() -> None:
    spec = {
        "frontend": {
            "checkpoint": "model",
            "shape": {"input_ids": [[16], [32]]},
            "quantize": {"type": "w16kv8", "calib_args": {"kv_cache_scales": "scales.safetensors"}},
        },
        "backend": {"type": "tvm_vacc", "dtype": "fp16"},
    }
    assert not target_options(load_spec(spec).spec, CAPS["tvm_vacc"], False)[0].unbiased_keys
    assert _request("w16kv8", "fp16")[0].unbiased_keys

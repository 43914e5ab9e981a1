"""Metadata keys of a GGUF file that nobody reads: refused where they change what a model computes, else named.

A key that is left out in silence is a wrong answer without a word. The keys are those of llama.cpp's
``llama-arch.cpp``, each with the values that leave the function as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from xamc.errors import UnsupportedError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Keys after the architecture's prefix that switch something on: what they ask for is absent at 0, false, "" and [].
_SWITCHES = _words("""
    activation.situ_beta activation.situ_linear_beta attention.clamp_kqv attention.compress_ratios
    attention.compress_rope_freq_base attention.decay_lora_rank attention.gate_lora_rank attention.group_norm_groups
    attention.iclr_lora_rank attention.key_length_mla attention.kv_lora_rank attention.max_alibi_bias
    attention.output_group_count attention.output_lora_rank attention.q_lora_rank attention.recurrent_layers
    attention.relative_buckets_count attention.rope_pattern attention.shared_kv_layers
    attention.sliding_window_pattern attention.temperature_length attention.temperature_scale
    attention.value_expert_count attention.value_expert_used_count attention.value_length_mla
    attention.value_residual_mix_lora_rank attn_logit_softcapping attn_res.block_size block_size conv_kernel_size
    decoder_block_count decoder_start_token_id deepstack_mapping dense_2_feat_in dense_2_feat_out dense_3_feat_in
    dense_3_feat_out embedding_length_per_layer_input expert_chunk_feed_forward_length expert_count
    expert_feed_forward_length expert_group_count expert_group_used_count expert_latent_length expert_shared_count
    expert_shared_feed_forward_length expert_used_count experts_per_group features_length final_logit_softcapping
    full_attention_interval hash_layer_count interleave_moe_layer_step leading_dense_block_count moe_every_n_layers
    moe_latent_size n_deepstack_layers nextn_predict_layers norm_before_fc norm_before_residual rescale_every_n_layers
    rope.dimension_sections rope.scaling.alpha router_logit_softcapping selector_rank selector_top_k swiglu_clamp_exp
    swiglu_clamp_shexp swin_norm target_hidden_size target_layers time_decay_extra_dim time_mix_extra_dim
    token_shift_count use_parallel_residual
""")
# The same of whole groups of keys.
_SWITCH_GROUPS = (
    "adapters.", "attention.indexer.", "classifier.", "convnext.", "decision.", "hrm.", "hyper_connection.", "kda.",
    "ple.", "posnet.", "shortconv.", "ssm.", "wkv.",
)  # fmt: skip
# Factors: 1 changes nothing, and 0 stands for "none" in llama.cpp.
_FACTORS = _words("""
    attention.output_scale attention.value_scale embedding_scale logit_scale num_loops residual_scale
""")
# Keys with a rule of their own in `_is_off`.
_SINGLE = frozenset(
    {"attention.causal", "attention.scale", "embedding_length_out", "hidden_activation", "rope.scaling.attn_factor"}
)
# Keys that say what is so anyway, or how a file came to be.
_NEUTRAL = _words("""
    attention.layer_norm_epsilon attention.group_norm_epsilon rope.scaling.finetuned
    rope.scaling.original_context_length tensor_data_layout vocab_size
""")
_TOKENIZER = frozenset(
    f"tokenizer.ggml.{name}"
    for name in _words("""
    add_bos_token add_eos_token add_space_prefix bos_token_id eom_token_id eos_token_id eot_token_id fim_mid_token_id
    fim_pad_token_id fim_pre_token_id fim_rep_token_id fim_sep_token_id fim_suf_token_id mask_token_id merges
    middle_token_id model padding_token_id pre prefix_token_id scores seperator_token_id separator_token_id
    cls_token_id suffix_token_id token_type token_type_count tokens unknown_token_id
""")
) | {"tokenizer.chat_template", "tokenizer.chat_templates"}
# Read by others, or records of how a file was made.
_OTHER = ("split.", "quantize.", "tokenizer.chat_template.")
_SAMPLING = frozenset(f"general.sampling.{name}" for name in ("temp", "top_k", "top_p", "penalty_repeat"))
# Rank pooling turns the logits into one score per text; the other kinds pool what an embedding model gives.
_RANK_POOLING = 4


def leftover_keys(metadata: Mapping[str, Any], path: Path, architecture: str, read: Collection[str]) -> tuple[str, ...]:
    """The keys that are left out, sorted.

    Args:
        metadata: all keys of the file.
        path: the file, for messages.
        architecture: the prefix of the model's own keys.
        read: keys of the model that were asked for.

    Raises:
        UnsupportedError: E1107, a key that changes what the model computes.
    """
    left = []
    for key, value in sorted(metadata.items()):
        own = key.removeprefix(architecture + ".") if key.startswith(architecture + ".") else None
        if key in read or key in _TOKENIZER or key in _SAMPLING or key.startswith(_OTHER):
            continue
        if key.startswith("general.") and not key.startswith("general.sampling."):
            _refuse_other_contents(key, value, path)
            continue
        if own in _NEUTRAL:
            continue
        if own is not None and not _is_off(own, value, metadata, architecture):
            raise _refused(path, key, value)
        if key == "tokenizer.ggml.suppress_tokens" and value:
            raise _refused(path, key, value)
        if own is None or not _is_known(own):
            left.append(key)
    return tuple(left)


def _is_known(own: str) -> bool:
    return own in _SWITCHES | _FACTORS | _SINGLE or own.startswith(_SWITCH_GROUPS)


def _is_off(own: str, value: Any, metadata: Mapping[str, Any], architecture: str) -> bool:
    """Whether the model's own key `own` has a value that leaves the function as it is, or means nothing to us."""
    if own in _SWITCHES or own.startswith(_SWITCH_GROUPS):
        return not (any(value) if isinstance(value, list) else value)
    if own in _FACTORS:
        return value in (0, 1) and not isinstance(value, list)
    match own:
        case "attention.causal":
            return value is True
        case "attention.scale":
            width = metadata.get(f"{architecture}.attention.key_length")
            return value == 0 or (isinstance(width, int) and width > 0 and abs(value * width**0.5 - 1) < 1e-6)
        case "embedding_length_out":
            return value in (0, metadata.get(f"{architecture}.embedding_length"))
        case "rope.scaling.attn_factor":
            return bool(value == 1)
        case "hidden_activation":
            return value in ("silu", "swish")
        case "pooling_type":
            return bool(value != _RANK_POOLING)
    return True


def _refuse_other_contents(key: str, value: Any, path: Path) -> None:
    if key == "general.type" and value in ("adapter", "mmproj", "imatrix"):
        raise UnsupportedError(
            "E1107",
            f"{path}: {key} {value!r} holds no language model",
            "set frontend.checkpoint to the model's own file",
        )


def _refused(path: Path, key: str, value: Any) -> UnsupportedError:
    shown = repr(value) if not isinstance(value, list) or len(value) < 9 else f"a list of {len(value)}"
    return UnsupportedError(
        "E1107",
        f"{path}: {key} {shown} changes what the model computes and is not supported in GGUF",
        "use a model without it, or the original safetensors checkpoint if its family is supported",
    )

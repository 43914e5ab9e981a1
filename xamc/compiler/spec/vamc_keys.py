"""vamc's keys: every one that is known from public build files and texts.

vamc is closed; where no public text says what a key does, its meaning here says "not publicly documented". Such a key
is recorded for a hand-off to vamc and never pretended to be honoured.
"""

from __future__ import annotations

from xamc.compiler.spec.keys import READ_BY_ALL
from xamc.compiler.spec.model import CALIBRATED_TYPES, RTN_TYPES
from xamc.targets.spec_keys import Key, Use
from xamc.targets.spec_kinds import Anything, Bool, Int, Kind, ListOf, MapOf, Number, OneOf, Shape, Text

_Used = tuple[Use, str]

_USED: _Used = ("used", READ_BY_ALL)
_ANY = Anything()
_FLAG = Bool()

_UNKNOWN = "not publicly documented"
_OF_VACC: _Used = ("no effect", "an option of VACC's compiler")
_CNN: _Used = ("no effect", "for CNN graphs on VACC; language models take frontend.quantize")
_CALIBRATION: _Used = ("recorded", "calibration is vamc's; xamc's own quantization is round-to-nearest")
_KV_CALIBRATION: _Used = (
    "recorded",
    "calibration is vamc's; xamc's own quantization of weights is round-to-nearest",
)
_PREPROCESS: _Used = ("recorded", "image preprocessing for vamc's calibration")
_DETECTION: _Used = ("no effect", "detection post-processing on VACC")


def _recorded(path: str, kind: Kind, meaning: str, use: _Used) -> Key:
    return Key(path, kind, meaning, use, strict=False)


def _for_vamc(path: str, kind: Kind, meaning: str, use: _Used = _OF_VACC) -> Key:
    """A key that only means something to VACC's closed compiler."""
    return Key(path, kind, meaning, use, strict=False, for_vamc=True)


_TOP = (
    Key(
        "name", Text(), "Name of the artifact's folder under `workspace.path`.", _USED, "the file's name without .yaml"
    ),
    Key("model", Text(), "Older spelling of `name` in a few vamc files.", _USED),
)

_FRONTEND = (
    Key(
        "frontend.checkpoint",
        Text(),
        "The model: a folder, a file, a hub id that is in this machine's hub cache, or "
        "`package:<python package>/<file>` for weights inside an installed package. Relative paths are against the "
        "YAML file's folder.",
        _USED,
        "required",
    ),
    Key(
        "frontend.type",
        OneOf(("huggingface", "gguf", "onnx", "pytorch", "keras", "tensorflow", "darknet", "caffe")),
        "How the checkpoint is read.",
        _USED,
        "by the checkpoint's extension; huggingface for a folder",
    ),
    _recorded(
        "frontend.dtype",
        Text(),
        "Dtype of the graph's inputs (fp32, int64).",
        ("recorded", "token ids are int64; nothing else is fed to a language model"),
    ),
    Key(
        "frontend.shape.input_ids",
        Shape(),
        "Language models: `[[prefill lengths], [total lengths]]` in tokens. The largest of the first list is the "
        "prefill chunk, the largest of the second the context limit. On VACC each is a bucket and a multiple of 16. "
        "Other graphs: the input's shape, or two shapes `[[min], [max]]`.",
        ("used", "the largest lengths are the prefill chunk and the context limit"),
        "prefill 512, context = the model's max_position_embeddings",
    ),
    _recorded(
        "frontend.shape.*",
        Shape(),
        "Shape of another graph input. Every input of an ONNX graph whose dimensions are open needs one.",
        ("recorded", "of a language model only input_ids is read; fixes the inputs of an ONNX graph"),
    ),
    Key(
        "frontend.model_kwargs.tp",
        Int(1, 1024),
        "Tensor-parallel degree: one rank is one die.",
        ("used", "number of ranks"),
        "1",
    ),
    _for_vamc(
        "frontend.model_kwargs.b2s",
        _FLAG,
        "Raises throughput on VACC; off for lowest latency.",
        ("recorded", "a throughput option of vamc without counterpart"),
    ),
    _recorded(
        "frontend.model_kwargs.model_arch",
        Text(),
        "`vacc`: load hand-patched modeling files from the checkpoint folder.",
        ("recorded", "xamc patches the export itself and runs no code from a checkpoint folder"),
    ),
    _for_vamc(
        "frontend.model_kwargs.build_visual",
        _FLAG,
        "Compile the vision tower of a vision-language checkpoint instead of its language model.",
        ("used", "true is refused: only language models are compiled"),
    ),
    _recorded(
        "frontend.model_kwargs.align_qkv",
        _FLAG,
        "Pads grouped-query heads where `tp` does not divide the KV heads.",
        ("no effect", "runs in one process: nothing is divided"),
    ),
    *(
        _for_vamc(f"frontend.model_kwargs.{name}", kind, meaning, ("no effect", "an option of vamc's exporter"))
        for name, kind, meaning in (
            ("enable_kv_share", _FLAG, "Grouped-query attention in vamc 2; newer versions set it themselves."),
            ("insert_slice", _FLAG, "Logits of the last position only, in the prefill graph."),
            ("split_embed", _ANY, f"{_UNKNOWN.capitalize()}."),
            ("onnx_cache", _ANY, f"{_UNKNOWN.capitalize()}."),
            ("from_onnx", _ANY, f"{_UNKNOWN.capitalize()}."),
            ("seq_lens", _ANY, f"{_UNKNOWN.capitalize()}."),
            ("dump_layers", _ANY, f"{_UNKNOWN.capitalize()}."),
            ("cached_length", _ANY, f"{_UNKNOWN.capitalize()}."),
        )
    ),
    Key(
        "frontend.quantize.type",
        OneOf((*RTN_TYPES, *CALIBRATED_TYPES)),
        "How weights are stored. `*_rtn` rounds to nearest. Calibrated types are refused by `compile` unless "
        "`--allow-rtn` replaces them by the round-to-nearest type of as many bits; `w16kv8` keeps 16-bit weights.",
        _USED,
        "null: not quantized",
    ),
    _recorded(
        "frontend.quantize.device",
        Text(),
        "Torch device that runs a calibration.",
        ("recorded", "round-to-nearest needs no device"),
    ),
    *(
        _recorded(f"frontend.quantize.calib_args.{name}", kind, f"GPTQ's `{name}`.", _CALIBRATION)
        for name, kind in (
            ("true_sequential", _FLAG),
            ("wbits", Int()),
            ("damp_percent", Number()),
            ("onegroup", _ANY),
            ("blocksize", Int()),
            ("desc_act", _FLAG),
            ("model_file_base_name", Text()),
            ("model_file_kv_name", Text()),
        )
    ),
)

_GRAPH = (
    _for_vamc(
        "graph.extra_ops.type", Text(), "An operator appended to a CNN graph (softmax, yolov8_nms, ...).", _DETECTION
    ),
    *(
        _for_vamc(f"graph.extra_ops.params.{name}", kind, f"`{name}` of the appended operator.", _DETECTION)
        for name, kind in (
            ("anchor", ListOf(Number())),
            ("anchor_heights", ListOf(Number())),
            ("anchor_rotations", ListOf(Number())),
            ("anchor_size", ListOf(Number())),
            ("confidence_thresh", Number()),
            ("confidence_threshold", Number()),
            ("dir_limit_offset", Number()),
            ("dir_offset", Number()),
            ("feature_map_stride", Int()),
            ("grid_stride", ListOf(Int())),
            ("max_obj_per_sample", Int()),
            ("nms_post_max", Int()),
            ("nms_pre_max", Int()),
            ("nms_thresh", Number()),
            ("nms_threshold", Number()),
            ("nms_topk", Int()),
            ("num_classes", Int()),
            ("point_cloud_range", ListOf(Number())),
            ("post_center_limit_range", ListOf(Number())),
            ("post_nms", Int()),
            ("score_thresh", Number()),
            ("seg_enable", _FLAG),
            ("strides", ListOf(Int())),
            ("voxel_size", ListOf(Number())),
        )
    ),
)

_COMPILE = (
    ("attention_split_num", Int(1), "Splits attention for long sequences: 4 at 2048 tokens, 8 at 4096, 16 at 8192."),
    ("ffn_split_num", Int(1), "Splits the feed-forward network for long sequences."),
    ("data_type", Int(), "0 computes in fp16, 2 in int8."),
    ("gather_data_vccl_dsp_enable", _FLAG, "Saves memory while compiling: VCCL's gather on the DSP."),
    ("llm_build", _FLAG, "Vision towers only."),
    ("fullatt_block_indexes", ListOf(Int()), "Vision blocks with full attention."),
    ("output_layout", ListOf(Text()), "Layout of each output: `0:YX`."),
    ("data_transport_mode", Int(), f"{_UNKNOWN.capitalize()}: 1 or 3."),
    ("enable_dense_to_matmul", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("cluster_mode", Int(), f"{_UNKNOWN.capitalize()}: 0 or 1."),
    ("dense_special_config", ListOf(Int()), f"{_UNKNOWN.capitalize()}."),
    ("enable_float_to_half", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("enable_graph_partition", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("enable_groundingdino_axis_change", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("enable_groundingdino_cut_layernorm", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("enable_inputs_align", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("enable_transform_vision_language_pan", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("mem_inplace", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("nearest_interpol_on_dsp", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("opt_level", Int(), f"{_UNKNOWN.capitalize()}: always 2."),
    ("output_ddr", ListOf(Int()), f"{_UNKNOWN.capitalize()}."),
    ("partition_convergence_dsp_enable", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("real_output_shape", ListOf(ListOf(Int())), f"{_UNKNOWN.capitalize()}."),
    ("split_convergence_points", ListOf(Text()), "Cut points that split a big CNN graph."),
    ("stream_mode", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("switch_lhs_rhs", _FLAG, f"{_UNKNOWN.capitalize()}."),
)

_ACTIVATION_QUANTIZE = (
    ("calibrate_mode", OneOf(("percentile", "kl_divergence", "max", "mse")), "How activation ranges are found."),
    ("calibrate_chunk_by", Int(), f"{_UNKNOWN.capitalize()}: always -1."),
    ("calibrate_range", Number(), "Percentile of the calibration."),
    ("exclude_layers", ListOf(Int()), "Layers kept in floating point, by index."),
    ("ops_usingfp", ListOf(Text()), "Operators kept in floating point."),
    ("overflow_adaptive", Int(), f"{_UNKNOWN.capitalize()}."),
    ("quantize_dsp_ops", ListOf(Text()), "Operators quantized on the DSP."),
    ("quantize_mode", Text(), f"{_UNKNOWN.capitalize()}: manual or force_auto."),
    ("quantize_operators", ListOf(Text()), "Operators to quantize; a leading ! excludes one."),
    ("quantize_per_channel", _FLAG, "One scale per output channel."),
    ("requant_suppress", _FLAG, f"{_UNKNOWN.capitalize()}."),
    ("skip_conv_layers", ListOf(Int()), "Convolutions kept in floating point, by index."),
    ("skip_matmul_layers", ListOf(Int()), "Matrix products kept in floating point, by index."),
    ("weight_scale", Text(), "How weight scales are rounded: power2 or max."),
)

_BACKEND = (
    Key(
        "backend.dtype",
        OneOf(("fp32", "fp16", "bf16", "int8", "int4")),
        "How the weights of linear layers are stored. int8 and int4 go with a `frontend.quantize.type` of 8 and 4 "
        "bits; vamc also writes int8 for `w16kv8`. What else the target stores in fewer bits is its own choice.",
        _USED,
        "what frontend.quantize.type says; fp16 without one",
    ),
    Key(
        "backend.merge_params",
        _FLAG,
        "Not publicly documented; presumably one parameter file for prefill and decode.",
        ("no effect", "prefill and decode always share one copy of the weights"),
    ),
    _for_vamc("backend.remove_params", _FLAG, "Not publicly documented."),
    _for_vamc("backend.merge_shapes", _ANY, "Not publicly documented."),
    _for_vamc("backend.device", _ANY, "Not publicly documented."),
    *(_for_vamc(f"backend.compile.{name}", kind, meaning) for name, kind, meaning in _COMPILE),
    *(_for_vamc(f"backend.quantize.{name}", kind, meaning, _CNN) for name, kind, meaning in _ACTIVATION_QUANTIZE),
    *(
        _for_vamc(f"backend.{section}.{name}", _FLAG, "For CNN graphs of varying size.")
        for section in ("dynamic_params", "dynamic_compile")
        for name in ("enable_graph_partition", "is_elic_gs", "is_check_conv", "is_sr4k")
    ),
)

_DATASET = (
    _recorded("dataset.type", Text(), "How calibration data are read: tvm or huggingface.", _CALIBRATION),
    _recorded("dataset.name", Text(), "A calibration set by name: alpaca, c4, ceval.", _CALIBRATION),
    _recorded("dataset.path", Text(), "Where the calibration data lie.", _KV_CALIBRATION),
    _recorded("dataset.nsamples", Int(1), "Samples to calibrate with.", _KV_CALIBRATION),
    _recorded("dataset.seqlen", Int(1), "Tokens per sample.", _KV_CALIBRATION),
    _recorded("dataset.sampler.suffix", Text(), "Extension of the image files to take.", _CALIBRATION),
    _recorded("dataset.sampler.get_data_num", Int(1), "Images to calibrate with.", _CALIBRATION),
    _recorded(
        "dataset.process_ops",
        ListOf(MapOf(_ANY)),
        "Image preprocessing, in order: DecodeImage, Resize, CenterCrop, Pad, CvtColor, Normalize, ToTensor, ...",
        _PREPROCESS,
    ),
)

_WORKSPACE = (
    Key(
        "workspace.path",
        Text(),
        "Folder that artifacts go under; relative to the current folder, as in vamc.",
        _USED,
        "./vacc_deploy",
    ),
    Key("workspace.work_dir", Text(), "Misspelling of `path` in a few vamc files.", _USED),
    Key(
        "workspace.workers",
        Int(1, 1024),
        "Processes that work at the same time.",
        ("used", "processes that pack weights"),
        "the CPUs that the process may use",
    ),
    _recorded(
        "workspace.pyenv",
        MapOf(Text()),
        "Python packages and versions that the author used.",
        ("recorded", "xamc installs nothing and does not switch environments"),
    ),
    _recorded(
        "workspace.env_recheck",
        _FLAG,
        "Whether vamc compares the environment with `pyenv`.",
        ("no effect", "xamc does not compare environments"),
    ),
    _recorded(
        "workspace.enable_ir",
        _FLAG,
        "Whether vamc keeps its intermediate files.",
        ("no effect", "use --dump-ir"),
    ),
    _recorded(
        "workspace.save_log",
        _FLAG,
        "Whether vamc keeps its log.",
        ("no effect", "the artifact's report.json holds times and results"),
    ),
)

KEYS: tuple[Key, ...] = (*_TOP, *_FRONTEND, *_GRAPH, *_BACKEND, *_DATASET, *_WORKSPACE)

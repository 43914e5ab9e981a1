"""Hints in Chinese below an error's own text, for people whose locale is Chinese.

The message and the fix stay in English, as they name keys, files and numbers and are what one searches for; the hint
says in a sentence what kind of problem it is and what to do.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

HINTS: dict[str, str] = {
    "E1001": "找不到或无法读取构建文件：请检查路径和权限。",
    "E1002": "构建文件必须是 UTF-8 编码的文本：请另存为 UTF-8。",
    "E1004": "YAML 语法有误：请检查所指位置附近的缩进、引号和括号。",
    "E1006": "同一个键写了两次：请只保留一个。",
    "E1010": "构建文件为空，或顶层不是“键: 值”的映射。",
    "E1020": "未知的键：passes、verify、runtime 中不允许未知的键，请检查拼写。",
    "E1021": "警告：未知的键，已忽略；请检查拼写。",
    "E1022": "值的类型不对：请按提示改成相应的类型。",
    "E1023": "该键只接受列出的几个取值之一。",
    "E1024": "缺少 frontend.checkpoint：请填写模型所在的文件夹或文件。",
    "E1025": "数值超出允许的范围。",
    "E1026": "YAML 1.2 中 yes/no/on/off 是普通单词：布尔值请写 true 或 false。",
    "E1029": "决定编译目标或模型格式的键拼写有误：请按提示更正。",
    "E1032": "frontend.shape.input_ids 需要两个列表：预填充长度和总长度。",
    "E1033": "VACC 要求所有长度都是 16 的倍数。",
    "E1034": "总长度包含提示和回答，不能小于预填充长度。",
    "E1035": "frontend.type 与模型文件的格式不一致。",
    "E1038": "路径中含有 shell 变量，构建文件不会展开：请写完整路径，或用 --set 由 shell 展开。",
    "E1041": "backend.dtype 为 int8 或 int4 时，需要用 frontend.quantize.type 指明量化方式。",
    "E1042": "frontend.quantize.type 与 backend.dtype 互相矛盾：请修改其中一个。",
    "E1043": "group_size 与量化类型不匹配：4 位量化可用 32、64 或 128。",
    "E1060": "--set 的写法是 键.路径=值，例如 --set backend.type=tvm_cpu。",
    "E1061": "--set 指定的键不存在：请检查拼写，或用 xamc schema 查看所有键。",
    "E1070": "没有这个错误码；xamc explain 可列出全部错误码。",
    "E1071": "没有这个目标；xamc targets 可列出全部目标。",
    "E1100": "不支持这种 frontend.type。",
    "E1101": "frontend.checkpoint 不存在，或不是该类型所需的文件夹或文件：请检查路径。",
    "E1103": "模型文件夹中的 JSON 或文本文件缺失或损坏：请重新下载。",
    "E1104": "config.json（或 GGUF 元数据）中有键缺失、类型不对或互相矛盾。",
    "E1105": "不认识的模型结构（model_type）：请查看 docs/checkpoints.md 中支持的模型。",
    "E1107": "config.json 中有不支持的计算（如 is_causal: false、已量化的权重）：请按提示修改或更换模型。",
    "E1110": "safetensors 文件头损坏：请重新下载该文件。",
    "E1111": "权重文件不完整（可能下载中断）：请重新下载。",
    "E1112": "权重的存储类型不受支持：需要 F32、F16 或 BF16。",
    "E1114": "缺少某个权重分片：请补全下载。",
    "E1116": "没有 safetensors 权重：出于安全原因，不会直接读取 pickle（.bin、.pt）文件。",
    "E1120": "模型的某些参数在权重文件中找不到：config.json（或 GGUF 元数据）与权重可能不是同一个模型。",
    "E1121": "权重文件中有模型（config.json 或 GGUF 元数据所描述）用不到的张量。",
    "E1122": "张量形状与 config.json（或 GGUF 元数据）不一致。",
    "E1123": "权重中有 NaN 或无穷大：文件可能损坏，请重新下载。",
    "E1124": "权重超出 float16 的范围：请把 backend.dtype 设为 bf16 或 fp32。",
    "E1131": "GGUF 文件不完整（可能下载中断）：请重新下载。",
    "E1132": "不支持该 GGUF 张量类型。",
    "E1133": "GGUF 版本过旧、为大端序，或分片文件名不完整：请按提示转换或补全分片。",
    "E1134": "分词器缺失、损坏或类型不受支持。",
    "E1154": "ONNX 图中有无法编译的算子，已全部列出。",
    "E1156": "ONNX 图的输入有未确定的维度：请在 frontend.shape 中给出。",
    "E1306": "passes.disable 或 passes.expect 中的 pass 名称不存在。",
    "E1307": "实际改写次数与 passes.expect 不符。",
    "E1309": "某个 pass 之后模型的输出变了：请把报告附上并反馈。",
    "E1315": "模型内部的数值超出 float16 的范围（65504）：请改用 bf16 或 fp32，或编译到 tvm_cpu。",
    "E1404": "打包权重的进程被终止，多半是内存不足：请减小 workspace.workers。",
    "E1408": "该量化类型需要校准数据：可加 --allow-rtn 改用就近舍入。",
    "E1410": "该目标没有这种存储类型：请改用列出的类型之一。",
    "E1461": "未知的 CPU 级别：请用 native 或列出的级别，例如 x86-64-v3。",
    "E1462": "此处理器既不是 x86-64，也不是带 NEON 的 aarch64。",
    "E1480": "缺少 aarch64 交叉链接器：请安装 gcc-aarch64-linux-gnu 和 libc6-dev-arm64-cross。",
    "E1481": "backend.compile.cpu 与 mcpu 只能写一个，且每个级别只列一次。",
    "E1501": "输出文件夹中已有不属于 xamc 的内容：请换一个文件夹。",
    "E1502": "manifest.json 损坏：请重新编译，或重新复制产物。",
    "E1503": "产物的格式版本与此 xamc 不同：请用此版本重新编译。",
    "E1504": "该路径不是产物：请给出 xamc compile 最后打印的文件夹。",
    "E1505": "产物中有文件缺失或被改动：请重新复制或重新编译。",
    "E1506": "磁盘已满或超出配额：请清理空间（xamc cache prune）后重试。",
    "E1507": "文件夹不可写：请检查权限或挂载方式。",
    "E1511": "这台机器上算出的结果与编译时记录的不同：请运行 xamc doctor，并在本机重新编译。",
    "E1520": "子进程崩溃：日志和复现文件夹已保存，请附上反馈。",
    "E1521": "子进程超时：请在空闲的机器上重试。",
    "E1522": "子进程超出内存上限：请减小 workspace.workers 或增加内存。",
    "E1602": "词元编号超出词表范围：请使用产物自带的分词器。",
    "E1603": "提示和回答的总长超过上下文上限：请缩短提示，或以更大的长度重新编译。",
    "E1604": "同时的序列数超过 runtime.max_batch。",
    "E1606": "内存放不下 KV 缓存：请减小批量或长度。",
    "E1607": "此 CPU 缺少产物所需的指令：请在本机重新编译，或用 backend.compile.cpu 列出多个级别。",
    "E1608": "线程数必须在 1 到 1024 之间。",
    "E1609": "运行库缺失或不兼容：请按 constraints.txt 重新安装，并运行 xamc doctor。",
    "E1610": "产物是为另一种硬件编译的：可用 --set backend.type=tvm_cpu 重新编译。",
    "E1613": "产物没有可用的分词器。",
    "E1614": "模型没有对话模板，可能是基础模型：请用 --prompt 续写，或用 --chat-template 提供模板。",
    "E1618": "在一次调用的中途（信号处理函数或析构函数里）又调用了同一模型：请在调用结束后再用。",
    "E1651": "提示文本不是 UTF-8：请先转换编码，例如 iconv -f GB18030 -t UTF-8。",
    "E1652": "模型在 fork 之前加载，子进程中没有计算线程：请在子进程里重新加载，或使用 spawn。",
    "E1653": "transformers 的这个生成参数在此运行时不支持：请去掉它。",
    "E1654": "推测解码需要用本版本为 CPU 编译的模型：请重新编译，或去掉 --speculate。",
    "E1640": "该产物是一个计算图，不是语言模型：请用 --inputs 提供数组。",
    "E1660": "CPU 列表有误，或本进程不能使用其中的 CPU：写法如 0-3,8。",
    "E1700": "意外错误，属于 xamc 的缺陷：请附上日志反馈。",
    "E1701": "未安装编译所需的软件包：请执行 pip install 'xamc[compiler]' 或 make venv。",
    "E1703": "xamc doctor 发现了会导致失败的问题：请按 fail 行的提示处理。",
    "E1705": "产物是为另一个目标编译的：请去掉 --target，或换成对应的产物。",
    "E1710": "可用内存不足：请关闭其他程序，或设 workspace.workers: 1。",
    "E1711": "可用磁盘空间不足：请清理空间，或用 workspace.path 换一块磁盘。",
    "E1712": "图放不进单个芯片的内存：请增加 tp、缩短长度或使用量化。",
    "E1735": "无法读取记录的回答或提示文件：请用 xamc golden record 生成。",
    "E1736": "回答与记录不一致：若是有意的改动，请重新记录并提交。",
    "E1737": "请用 --prompt 或 --prompts 给出提示；--set、--target、--allow-rtn、--allow-pickle 只能用于构建文件。",
}

_AREAS: dict[str, str] = {
    "E10": "构建文件（build.yaml）有问题：请按上面指出的位置修改。",
    "E11": "模型文件有问题：请检查 frontend.checkpoint 指向的文件。",
    "E12": "导出模型时出错：请核对模型结构与 transformers 的版本。",
    "E13": "图改写或验证时出错。",
    "E14": "代码生成时出错，或目标不支持所要求的功能。",
    "E15": "产物、缓存或子进程出错。",
    "E16": "运行产物时出错。",
    "E17": "命令行的用法或环境有问题。",
}


def is_chinese(environment: Mapping[str, str] | None = None) -> bool:
    """Whether messages are wanted in Chinese: the first of LC_ALL, LC_MESSAGES and LANG that is set says so."""
    values = os.environ if environment is None else environment
    wanted = next((values[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if values.get(name)), "")
    return wanted.lower().startswith(("zh_", "zh.", "zh-")) or wanted.lower() == "zh"


def hint(code: str) -> str:
    """The hint for an error code; that of its area where it has none of its own."""
    return HINTS.get(code) or _AREAS.get(code[:3], "")

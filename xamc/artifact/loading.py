"""What of an artifact is read again at every load, so that a changed file can't change an answer in silence.

Code is checked by what executes it. Everything else is checked here, but large weights, which would make a load take as
long as reading them does: `xamc verify` and ``verify_weights`` read those.
"""

from __future__ import annotations

from xamc.artifact.manifest import Manifest
from xamc.artifact.read import AnyArtifact, Damage, check_digests, refuse

# SHA-256 takes 0.06 s for it with the CPU's own instructions, 0.2 s without: little of any start.
SMALL_WEIGHTS = 64 * 2**20
_READ_BY_NAME = ("tokenizer.json", "tokenizer_config.json")


def check_load(artifact: AnyArtifact, verify_weights: bool = False) -> None:
    """Compares the files that decide an answer with their digests.

    Args:
        artifact: whose files; golden logits and code are left out.
        verify_weights: whether weights of more than 64 MiB are read as well.

    Raises:
        InputError: E1505, a file changed, or one that would be read is not in the manifest.
    """
    manifest = artifact.manifest
    if isinstance(manifest, Manifest):
        if manifest.files:  # one that is being made lists none yet
            _require_listed(artifact, manifest)
        code, tokenizer = {code.file for code in manifest.codes}, f"{manifest.tokenizer}/"
    else:
        code, tokenizer = {manifest.code_file}, None
    golden = f"{manifest.golden}/"
    others = [file for file in manifest.files if file.path not in code and not file.path.startswith(golden)]
    small = [file for file in others if tokenizer is not None and file.path.startswith(tokenizer)]
    weights = [file for file in others if file not in small]
    if verify_weights or sum(file.nbytes for file in weights) <= SMALL_WEIGHTS:
        small += weights
    check_digests(artifact, only={file.path for file in small})


def _require_listed(artifact: AnyArtifact, manifest: Manifest) -> None:
    """A tokenizer file that somebody put beside the published ones would be read too."""
    listed = {file.path for file in manifest.files}
    read = [f"{manifest.tokenizer}/{name}" for name in _READ_BY_NAME]
    template = manifest.generation.chat_template
    read += [*([template] if template else []), *manifest.generation.named_templates.values()]
    refuse(
        artifact,
        [
            Damage(path, "it is not in the manifest")
            for path in read
            if path not in listed and artifact.file(path).exists()
        ],
    )

"""What the reference target does with the keys of a spec."""

from xamc.targets.spec_keys import SpecKeys

KEYS = SpecKeys(uses={"frontend.model_kwargs.tp": ("no effect", "tp becomes 1")})

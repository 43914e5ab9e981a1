"""What the VACC target reads of a spec."""

from __future__ import annotations

from dataclasses import dataclass

from xamc.targets.buckets import BucketRequest, read_buckets
from xamc.targets.request import TargetOptions
from xamc.targets.vacc.caps import CAPS


@dataclass(frozen=True)
class VaccRequest(BucketRequest):
    """What the VACC target is asked for.

    Attributes:
        merge_params: whether the graphs of a rank share one file of weights.
    """

    merge_params: bool = False


def read_request(options: TargetOptions) -> VaccRequest:
    """The request of a spec.

    Raises:
        InputError: E1413; UnsupportedError: E1414. See `read_buckets`.
    """
    return VaccRequest.of(options, merge_params=options.merge_params, **read_buckets(options, CAPS))

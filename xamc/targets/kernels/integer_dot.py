"""Dot products of integer weights with activations rounded to integers, by what each CPU level has for them.

A weight word is the 32-bit lane of a packed weight (`packing.py`): four int8 codes or eight uint4 codes of one output
row. It is taken apart into operands, each of which is multiplied with one unit of activations, 32 bits broadcast to
all lanes:

============ ============= ============================ ======================================= =============== =====
arithmetic   for           an operand of a word         a unit of activations                   sums            group
============ ============= ============================ ======================================= =============== =====
VNNI         int8, uint4   four unsigned bytes          four int8                               int32 [lanes]   32
bytes        uint4         four unsigned bytes          four int8                               int16 [2 lanes] 32
words        int8          two unsigned 16-bit words    two int16, the even K and the odd ones  int32 [lanes]   64
============ ============= ============================ ======================================= =============== =====

The group is how many K share a scale of the activations: few for accuracy with 8 bits, as many with 16 as keep sums
from overflowing. `bytes` is ``pmaddubsw``, whose pairs of 16-bit sums can't overflow in a group: 8 * 2 * 15 * 127 =
30,480. `words` is ``vpdpwssd`` where the level has VNNI, else ``pmaddwd``: 64 * 255 * 32,767 fits int32. 8-bit weights
take it for 16-bit activations, and for 8-bit ones where there is no VNNI, as ``pmaddubsw`` would saturate; activations
have 16 bits then for nothing. `VNNI` is ``usdot`` or ``sdot`` on aarch64; where a level has none of these
instructions, neighbours are multiplied and added in plain ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tvm.tirx.script.builder import ir as T

from xamc.artifact.packing import WeightFormat
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.isa import Isa

IntegerActivations = Literal["int8", "int16"]


@dataclass(frozen=True)
class IntegerDot:
    """The integer arithmetic of one weight format on one CPU level.

    Attributes:
        kind: of the weights, int8 or uint4.
        isa: the level.
        vnni: whether bytes are multiplied by VNNI's instruction, or an emulation of it.
        group: consecutive K that share a scale of the activations.
        weight_groups: groups of activations per group of weights; None when a row of weights is one group.
        units: units of activations per weight word.
        unit: K per unit.
        words: consecutive K per weight word.
        activations: dtype that quantized activations are kept in.
        levels: the largest quantized activation.
        order: the K of a word, in the order in which its activations are kept.
    """

    kind: str
    isa: Isa
    vnni: bool
    group: int
    weight_groups: int | None
    units: int
    unit: int
    words: int
    activations: str
    levels: int
    order: tuple[int, ...]

    @staticmethod
    def of(fmt: WeightFormat, isa: Isa, activations: IntegerActivations) -> IntegerDot:
        """The arithmetic for integer weights of a format; 4-bit weights always meet 8-bit activations."""
        vnni = isa.has_vnni or isa.emulate_vnni
        words = fmt.kind == "int8" and (activations == "int16" or not vnni)
        group = min(64 if words else 32, fmt.group_size or 64)
        groups = fmt.group_size // group if fmt.group_size else None
        if fmt.kind == "uint4":
            return IntegerDot("uint4", isa, vnni, group, groups, 2, 4, 8, "int8", 127, tuple(range(8)))
        if words:
            return IntegerDot("int8", isa, False, group, groups, 2, 2, 4, "int16", 32767, (0, 2, 1, 3))
        return IntegerDot("int8", isa, vnni, group, groups, 1, 4, 4, "int8", 127, (0, 1, 2, 3))

    def weight_group(self, group: E.Expr) -> E.Expr:
        """The group of weights that a group of activations belongs to."""
        if self.weight_groups is None:
            return E.i32(0)
        return group if self.weight_groups == 1 else E.let(group // self.weight_groups)

    @property
    def can_center(self) -> bool:
        """Whether operands can have the zero point 128 of int8 weights taken off."""
        return self.kind == "int8" and not self.vnni

    def operands(self, word: E.Expr, *, centered: bool = False) -> list[E.Expr]:
        """The operands of a vector of weight words uint32 [lanes], one per unit, as int32 [lanes].

        `centered` takes off the zero point, which costs an operation per operand and saves one per group; see
        `can_center`.
        """
        lanes = self.isa.lanes
        if self.kind == "uint4":
            mask = E.const(0x0F0F0F0F, lanes, "uint32")
            parts = [word & mask, (word >> E.const(4, lanes, "uint32")) & mask]
        elif self.units == 1:
            parts = [word]
        else:
            halves = E.bits(word, "uint16", 2 * lanes)
            odd = E.bits(halves >> E.const(8, 2 * lanes, "uint16"), "uint32", lanes)
            parts = [word & E.const(0x00FF00FF, lanes, "uint32"), odd]
            if centered:
                zero = E.const(128, 2 * lanes, "uint16")
                parts = [E.bits(E.bits(part, "uint16", 2 * lanes) - zero, "uint32", lanes) for part in parts]
        return [E.let(E.bits(part, "int32", lanes)) for part in parts]

    def activation(self, buffer: E.Buffer, index: Sequence[E.Expr | int]) -> E.Expr:
        """The unit of activations that begins at `index`, in every lane, as int32 [lanes]."""
        narrow = E.load(buffer, index, 4 if self.activations == "int8" else 2)
        return E.let(E.splat(E.bits(narrow, "int32", 1), self.isa.lanes))

    def sums(self) -> E.Register:
        """A register of sums, not initialized."""
        if self._bytes:
            return E.Register(2 * self.isa.lanes, "int16")
        return E.Register(self.isa.lanes, "int32")

    def multiply_add(self, operand: E.Expr, unit: E.Expr, sums: E.Register) -> None:
        """Adds an operand times a unit to the sums."""
        if self.vnni:
            sums.set(_dot_bytes(sums.get(), operand, unit, self.isa, narrow=self.kind == "uint4"))
        elif self._bytes:
            sums.set(sums.get() + _multiply_bytes(operand, unit, self.isa))
        else:
            sums.set(_dot_words(sums.get(), operand, unit, self.isa))

    def total(self, sums: Sequence[E.Register]) -> E.Expr:
        """The sums of one group from all registers that took part, as float32 [lanes]; exact."""
        lanes = self.isa.lanes
        value = sums[0].get()
        for register in sums[1:]:
            value = value + register.get()
        if self._bytes:
            value = _multiply_words(value, E.const(1, 2 * lanes, "int16"), self.isa)
        return E.cast(value, "float32", lanes)

    @property
    def _bytes(self) -> bool:
        return self.kind == "uint4" and not self.vnni


_PREFIX = {4: ("ssse3.pmadd.ub.sw.128", "sse2.pmadd.wd"), 8: ("avx2.pmadd.ub.sw", "avx2.pmadd.wd")}
_PREFIX[16] = ("avx512.pmaddubs.w.512", "avx512.pmaddw.d.512")


def _multiply_bytes(unsigned: E.Expr, signed: E.Expr, isa: Isa) -> E.Expr:
    """pmaddubsw: int16 [2 lanes], each the saturated sum of two products of neighbouring bytes.

    In plain instructions where the level lacks it; what is multiplied here can't overflow.
    """
    lanes, name = isa.lanes, _PREFIX[isa.lanes][0]
    if isa.is_arm or isa.emulate_wide or "ssse3" not in isa.cpu_flags:
        return _multiply_pairs(unsigned, signed, 2 * lanes, 8)
    left, right = E.bits(unsigned, "uint8", 4 * lanes), E.bits(signed, "int8", 4 * lanes)
    return T.call_llvm_pure_intrin(E.vector("int16", 2 * lanes), f"llvm.x86.{name}", left, right)


def _multiply_words(left: E.Expr, right: E.Expr, isa: Isa) -> E.Expr:
    """pmaddwd: int32 [lanes], each the sum of two products of neighbouring int16."""
    lanes, name = isa.lanes, _PREFIX[isa.lanes][1]
    if isa.is_arm or isa.emulate_wide:
        return _multiply_pairs(left, right, lanes, 16, signed=True)
    return T.call_llvm_pure_intrin(E.vector("int32", lanes), f"llvm.x86.{name}", left, right)


def _dot_words(sums: E.Expr, left: E.Expr, right: E.Expr, isa: Isa) -> E.Expr:
    """vpdpwssd: sums int32 [lanes] + two products of neighbouring int16; `_multiply_words` where the level lacks it."""
    lanes = isa.lanes
    left, right = E.bits(left, "int16", 2 * lanes), E.bits(right, "int16", 2 * lanes)
    if "avx512_vnni" not in isa.cpu_flags or isa.emulate_vnni:
        return sums + _multiply_words(left, right, isa)
    return T.call_llvm_pure_intrin(E.vector("int32", lanes), "llvm.x86.avx512.vpdpwssd.512", sums, left, right)


def _multiply_pairs(left: E.Expr, right: E.Expr, lanes: int, width: int, signed: bool = False) -> E.Expr:
    """Products of neighbours of `width` bits, added up in integers twice as wide; only the right ones are signed.

    `signed`: the left ones are signed as well.
    """
    shift = E.const(width, lanes, f"int{2 * width}")
    wide = f"int{2 * width}"
    left, right = E.let(E.bits(left, wide, lanes)), E.let(E.bits(right, wide, lanes))
    if signed:
        low, high = (left << shift) >> shift, left >> shift
    else:
        raw = E.bits(left, f"u{wide}", lanes)
        low = left & E.const(2**width - 1, lanes, wide)
        high = E.bits(raw >> E.const(width, lanes, f"u{wide}"), wide, lanes)
    return low * ((right << shift) >> shift) + high * (right >> shift)


def _dot_bytes(sums: E.Expr, unsigned: E.Expr, signed: E.Expr, isa: Isa, narrow: bool) -> E.Expr:
    """vpdpbusd: sums int32 [lanes] + four products of unsigned and signed bytes, not saturated.

    `narrow`: the unsigned bytes are below 128.
    """
    lanes = isa.lanes
    if isa.emulate_vnni:
        total = sums
        for byte in range(4):
            shift = E.const(8 * byte, lanes, "uint32")
            weight = E.bits(
                (E.bits(unsigned, "uint32", lanes) >> shift) & E.const(255, lanes, "uint32"), "int32", lanes
            )
            left = signed << E.const(24 - 8 * byte, lanes, "int32") if byte < 3 else signed
            total = total + weight * (left >> E.const(24, lanes, "int32"))
        return total
    if isa.is_arm:
        return _dot_bytes_arm(sums, unsigned, signed, isa, narrow)
    left, right = E.bits(unsigned, "uint8", 4 * lanes), E.bits(signed, "int8", 4 * lanes)
    return T.call_llvm_pure_intrin(E.vector("int32", lanes), "llvm.x86.avx512.vpdpbusd.512", sums, left, right)


def _dot_bytes_arm(sums: E.Expr, unsigned: E.Expr, signed: E.Expr, isa: Isa, narrow: bool) -> E.Expr:
    """``usdot``; without it ``sdot`` of the bytes less 128, less the dot product with -128, which columns share."""
    lanes = isa.lanes

    def dot(name: str, total: E.Expr, left: E.Expr) -> E.Expr:
        operands = (E.bits(left, "int8", 4 * lanes), E.bits(signed, "int8", 4 * lanes))
        name = f"llvm.aarch64.neon.{name}.v{lanes}i32.v{4 * lanes}i8"
        return T.call_llvm_pure_intrin(E.vector("int32", lanes), name, total, *operands)

    if "i8mm" in isa.cpu_flags:
        return dot("usdot", sums, unsigned)
    if narrow:
        return dot("sdot", sums, unsigned)
    low = E.const(0x80808080, lanes, "uint32")
    moved = E.bits(unsigned, "uint32", lanes) ^ low
    return dot("sdot", sums, moved) - dot("sdot", E.const(0, lanes, "int32"), low)

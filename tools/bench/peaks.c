/* The machine's limits, as one asm block per loop: compilers spill accumulators of arrays of intrinsics.
 *
 * Built by tools/bench/probe.py with one of
 *   LEVEL 512: 512-bit registers; with VNNI and BF16 where the macros say so
 *   LEVEL 256: 256-bit registers
 * Every loop keeps 12 independent accumulators, enough for any latency x ports of today, and no memory operand.
 */
#include <stddef.h>
#include <stdint.h>

#if LEVEL == 512
#define R "zmm"
#define BYTES 64
#define MOVE "vmovdqa64"
#define CLEAR(i) "vpxord %%zmm" #i ",%%zmm" #i ",%%zmm" #i "\n\t"
#else
#define R "ymm"
#define BYTES 32
#define MOVE "vmovdqa"
#define CLEAR(i) "vpxor %%ymm" #i ",%%ymm" #i ",%%ymm" #i "\n\t"
#endif
#define EACH(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define CLOBBER "xmm0","xmm1","xmm2","xmm3","xmm4","xmm5","xmm6","xmm7","xmm8","xmm9","xmm10","xmm11","xmm12","xmm13","xmm14","xmm15","cc"
#define LOOP(NAME, F)                                                                                       \
    void NAME(uint64_t rounds) {                                                                            \
        __asm__ volatile(EACH(CLEAR) CLEAR(12) CLEAR(13) CLEAR(14) CLEAR(15)                                 \
                         "1:\n\t" EACH(F) "dec %0\n\t jnz 1b\n\t" : "+r"(rounds) : : CLOBBER);               \
    }

#define FP32(i) "vfmadd231ps %%" R "12,%%" R "13,%%" R #i "\n\t"
LOOP(fp32_loop, FP32)
/* multiply-adds of one round */
double fp32_ops(void) { return 2.0 * 12 * BYTES / 4; }

#ifdef VNNI
#define INT8(i) "%{vex%} vpdpbusd %%" R "12,%%" R "13,%%" R #i "\n\t"
#if LEVEL == 512
#undef INT8
#define INT8(i) "vpdpbusd %%" R "12,%%" R "13,%%" R #i "\n\t"
#endif
LOOP(int8_loop, INT8)
const char *int8_name(void) { return "vpdpbusd"; }
double int8_ops(void) { return 2.0 * 12 * BYTES; }
#else
/* three instructions do what vpdpbusd does; the products go to a register of their own, 14 or 15 in turn */
#define INT8(i) "vpmaddubsw %%" R "12,%%" R "13,%%" R "14\n\t vpmaddwd %%" R "12,%%" R "14,%%" R "14\n\t vpaddd %%" R "14,%%" R #i ",%%" R #i "\n\t"
LOOP(int8_loop, INT8)
const char *int8_name(void) { return "vpmaddubsw + vpmaddwd + vpaddd"; }
double int8_ops(void) { return 2.0 * 12 * BYTES; }
#endif

#ifdef BF16
#define BRAIN(i) "vdpbf16ps %%zmm12,%%zmm13,%%zmm" #i "\n\t"
LOOP(bf16_loop, BRAIN)
double bf16_ops(void) { return 2.0 * 12 * 32; }
#endif

/* Reads a part of a buffer in four streams, which keeps more lines in flight than one; the length is a multiple of 16 KiB. */
void read_all(const char *start, size_t length) {
    size_t quarter = length / 4;
    const char *end = start + quarter;
    __asm__ volatile("1:\n\t"
                     MOVE " (%0),%%" R "0\n\t" MOVE " (%0,%2),%%" R "1\n\t" MOVE " (%0,%2,2),%%" R "2\n\t" MOVE " (%0,%3),%%" R "3\n\t"
#if LEVEL != 512
                     "vmovdqa 32(%0),%%ymm4\n\t vmovdqa 32(%0,%2),%%ymm5\n\t vmovdqa 32(%0,%2,2),%%ymm6\n\t vmovdqa 32(%0,%3),%%ymm7\n\t"
#endif
                     "add $64,%0\n\t cmp %1,%0\n\t jb 1b\n\t"
                     : "+r"(start) : "r"(end), "r"(quarter), "r"(3 * quarter) : CLOBBER, "memory");
}

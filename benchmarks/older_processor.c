/* A process that believes to run on a processor without AVX-512, VNNI and AMX, at full speed.
 *
 * Linux lets a process on an Intel processor have its CPUID instructions faulted (arch_prctl ARCH_SET_CPUID, as `rr`
 * uses it): the fault is answered here with the processor's own answer less the bits of those features, so libraries
 * that choose their kernels by CPUID (ONNX Runtime, oneDNN, OpenBLAS, NumPy) choose those of an older processor.
 *
 *     gcc -O2 -shared -fPIC -o older_processor.so older_processor.c
 *     LD_PRELOAD=$PWD/older_processor.so python ...
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

static struct sigaction before;

static void faulting(int on) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, !on); }

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    if (info->si_code != SI_KERNEL || code[0] != 0x0f || code[1] != 0xa2) { /* a fault of the program's own */
        sigaction(SIGSEGV, &before, NULL);
        return;
    }
    uint32_t leaf = registers[REG_RAX], part = registers[REG_RCX], a, b, c, d;
    faulting(0);
    __cpuid_count(leaf, part, a, b, c, d);
    faulting(1);
    if (leaf == 7 && part == 0) {
        /* b: AVX512 F DQ IFMA PF ER CD BW VL; c: VBMI VBMI2 VNNI BITALG VPOPCNTDQ; d: 4VNNIW 4FMAPS VP2INTERSECT AMX FP16 */
        b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
        c &= ~(1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14);
        d &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
    } else if (leaf == 7 && part == 1) {
        a &= ~(1u << 4 | 1u << 5 | 1u << 21 | 1u << 23); /* AVX-VNNI, AVX512-BF16, AMX-FP16, AVX-IFMA */
        d &= ~(1u << 4 | 1u << 5 | 1u << 10 | 1u << 19); /* AVX-VNNI-INT8, NE-CONVERT, VNNI-INT16, AVX10 */
    }
    registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor(101))) static void start(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &action, &before);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        perror("older_processor: this kernel or processor cannot fault CPUID");
        exit(3);
    }
}

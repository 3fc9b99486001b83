//! `memcpy`, `memmove`, `memcmp` and `bcmp` for x86-64. The C library of a static binary compares byte by byte and
//! copies with string instructions, which cost more to start than most of our copies are long; together they were a
//! quarter of what the server did. Linked before the C library, these are the ones that everything in the process calls.
//!
//! Up to 128 bytes are read whole before the first is written, so that overlap does not matter; beyond that the end which
//! the loop reaches last is read first. Only SSE2, which every such processor has.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".section .text.coracle_memory,\"ax\",@progbits",
    ".globl memcpy",
    ".globl memmove",
    ".type memcpy, @function",
    ".type memmove, @function",
    ".p2align 5",
    "memcpy:",
    "memmove:",
    "mov rax, rdi",
    "cmp rdx, 16",
    "jb 20f",
    "cmp rdx, 32",
    "ja 40f",
    // 16 to 32: both ends.
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + rdx - 16], xmm1",
    "ret",
    "20: cmp edx, 8",
    "jb 21f",
    "mov rcx, [rsi]",
    "mov r8, [rsi + rdx - 8]",
    "mov [rdi], rcx",
    "mov [rdi + rdx - 8], r8",
    "ret",
    "21: cmp edx, 4",
    "jb 22f",
    "mov ecx, [rsi]",
    "mov r8d, [rsi + rdx - 4]",
    "mov [rdi], ecx",
    "mov [rdi + rdx - 4], r8d",
    "ret",
    "22: test edx, edx",
    "jz 23f",
    // 1 to 3: the first, the middle and the last may be the same byte.
    "movzx ecx, byte ptr [rsi]",
    "movzx r8d, byte ptr [rsi + rdx - 1]",
    "mov r9, rdx",
    "shr r9, 1",
    "movzx r10d, byte ptr [rsi + r9]",
    "mov [rdi], cl",
    "mov [rdi + r9], r10b",
    "mov [rdi + rdx - 1], r8b",
    "23: ret",
    "40: cmp rdx, 64",
    "ja 60f",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + rdx - 32]",
    "movups xmm3, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + rdx - 32], xmm2",
    "movups [rdi + rdx - 16], xmm3",
    "ret",
    "60: cmp rdx, 128",
    "ja 80f",
    "movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + 32]",
    "movups xmm3, [rsi + 48]",
    "movups xmm4, [rsi + rdx - 64]",
    "movups xmm5, [rsi + rdx - 48]",
    "movups xmm6, [rsi + rdx - 32]",
    "movups xmm7, [rsi + rdx - 16]",
    "movups [rdi], xmm0",
    "movups [rdi + 16], xmm1",
    "movups [rdi + 32], xmm2",
    "movups [rdi + 48], xmm3",
    "movups [rdi + rdx - 64], xmm4",
    "movups [rdi + rdx - 48], xmm5",
    "movups [rdi + rdx - 32], xmm6",
    "movups [rdi + rdx - 16], xmm7",
    "ret",
    // Longer: backwards only where the target begins inside the source.
    "80: mov rcx, rdi",
    "sub rcx, rsi",
    "cmp rcx, rdx",
    "jb 84f",
    // 16 KiB and more, not overlapping: the processor's own string copy is fastest. What overlaps from below is not.
    "cmp rdx, 16384",
    "jb 81f",
    "neg rcx",
    "cmp rcx, rdx",
    "jb 81f",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    // Forwards, the last 64 bytes read first.
    "81: movups xmm4, [rsi + rdx - 64]",
    "movups xmm5, [rsi + rdx - 48]",
    "movups xmm6, [rsi + rdx - 32]",
    "movups xmm7, [rsi + rdx - 16]",
    "lea r8, [rdi + rdx - 64]",
    "mov rcx, rdi",
    "82: movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + 32]",
    "movups xmm3, [rsi + 48]",
    "movups [rcx], xmm0",
    "movups [rcx + 16], xmm1",
    "movups [rcx + 32], xmm2",
    "movups [rcx + 48], xmm3",
    "add rsi, 64",
    "add rcx, 64",
    "cmp rcx, r8",
    "jb 82b",
    "movups [r8], xmm4",
    "movups [r8 + 16], xmm5",
    "movups [r8 + 32], xmm6",
    "movups [r8 + 48], xmm7",
    "ret",
    // Backwards, the first 64 bytes read first.
    "84: movups xmm4, [rsi]",
    "movups xmm5, [rsi + 16]",
    "movups xmm6, [rsi + 32]",
    "movups xmm7, [rsi + 48]",
    "lea rsi, [rsi + rdx - 64]",
    "lea rcx, [rdi + rdx - 64]",
    "85: movups xmm0, [rsi]",
    "movups xmm1, [rsi + 16]",
    "movups xmm2, [rsi + 32]",
    "movups xmm3, [rsi + 48]",
    "movups [rcx], xmm0",
    "movups [rcx + 16], xmm1",
    "movups [rcx + 32], xmm2",
    "movups [rcx + 48], xmm3",
    "sub rsi, 64",
    "sub rcx, 64",
    "cmp rcx, rdi",
    "ja 85b",
    "movups [rdi], xmm4",
    "movups [rdi + 16], xmm5",
    "movups [rdi + 32], xmm6",
    "movups [rdi + 48], xmm7",
    "ret",
    ".size memcpy, . - memcpy",
    ".size memmove, . - memmove",
    "",
    ".globl memcmp",
    ".globl bcmp",
    ".type memcmp, @function",
    ".type bcmp, @function",
    ".p2align 5",
    "memcmp:",
    "bcmp:",
    "cmp rdx, 16",
    "jb 30f",
    // Sixteen bytes at a time, the last of them again where the length is no multiple.
    "lea r8, [rdx - 16]",
    "xor ecx, ecx",
    "31: movups xmm0, [rdi + rcx]",
    "movups xmm1, [rsi + rcx]",
    "pcmpeqb xmm0, xmm1",
    "pmovmskb eax, xmm0",
    "xor eax, 65535",
    "jnz 33f",
    "add rcx, 16",
    "cmp rcx, r8",
    "jb 31b",
    "mov rcx, r8",
    "movups xmm0, [rdi + rcx]",
    "movups xmm1, [rsi + rcx]",
    "pcmpeqb xmm0, xmm1",
    "pmovmskb eax, xmm0",
    "xor eax, 65535",
    "jnz 33f",
    "ret",
    // The first byte that differs.
    "33: bsf eax, eax",
    "add rcx, rax",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx ecx, byte ptr [rsi + rcx]",
    "sub eax, ecx",
    "ret",
    "30: cmp edx, 8",
    "jb 34f",
    "mov rax, [rdi]",
    "mov rcx, [rsi]",
    "cmp rax, rcx",
    "jne 35f",
    "mov rax, [rdi + rdx - 8]",
    "mov rcx, [rsi + rdx - 8]",
    "cmp rax, rcx",
    "jne 35f",
    "xor eax, eax",
    "ret",
    // Eight bytes that differ, compared as the numbers that they are from the first byte on.
    "35: bswap rax",
    "bswap rcx",
    "cmp rax, rcx",
    "sbb eax, eax",
    "or eax, 1",
    "ret",
    "34: cmp edx, 4",
    "jb 36f",
    "mov eax, [rdi]",
    "mov ecx, [rsi]",
    "cmp eax, ecx",
    "jne 37f",
    "mov eax, [rdi + rdx - 4]",
    "mov ecx, [rsi + rdx - 4]",
    "cmp eax, ecx",
    "jne 37f",
    "xor eax, eax",
    "ret",
    "37: bswap eax",
    "bswap ecx",
    "cmp eax, ecx",
    "sbb eax, eax",
    "or eax, 1",
    "ret",
    "36: xor r8d, r8d",
    "38: cmp r8, rdx",
    "je 39f",
    "movzx eax, byte ptr [rdi + r8]",
    "movzx ecx, byte ptr [rsi + r8]",
    "inc r8",
    "sub eax, ecx",
    "jz 38b",
    "ret",
    "39: xor eax, eax",
    "ret",
    ".size memcmp, . - memcmp",
    ".size bcmp, . - bcmp",
    ".text",
);

#[cfg(test)]
mod tests {
    /// Byte by byte out of a copy, so that overlap does no harm.
    fn moved(bytes: &[u8], from: usize, to: usize, length: usize) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for index in 0..length {
            out[to + index] = std::hint::black_box(bytes[from + index]);
        }
        out
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index * 131 % 251) as u8).collect()
    }

    #[test]
    fn every_length_is_copied_wherever_source_and_target_lie() {
        let bytes = pattern(2048);
        for length in (0..=400).chain([511, 512, 513, 1000]) {
            for (from, to) in [(0, 1), (1, 0), (0, 16), (16, 0), (3, 67), (67, 3), (0, 129), (129, 0), (5, 1030)] {
                let mut own = bytes.clone();
                own.copy_within(from..from + length, to);
                assert_eq!(own, moved(&bytes, from, to, length), "{length} from {from} to {to}");
            }
        }
    }

    #[test]
    fn long_copies_overlap_on_either_side() {
        let bytes = pattern(70_000);
        for length in [16_383, 16_384, 16_385, 33_000] {
            for (from, to) in [(0, 1), (1, 0), (0, 4096), (4096, 0), (0, 34_000), (34_000, 1)] {
                let mut own = bytes.clone();
                own.copy_within(from..from + length, to);
                assert!(own == moved(&bytes, from, to, length), "{length} from {from} to {to}");
            }
        }
    }

    #[test]
    fn comparing_tells_the_first_byte_that_differs() {
        let left = pattern(300);
        for length in 0..=300 {
            assert_eq!(left[..length].cmp(&left.clone()[..length]), std::cmp::Ordering::Equal);
            for place in 0..length {
                let mut right = left.clone();
                right[place] = right[place].wrapping_add(127);
                // What comes later must not count.
                if place + 1 < length {
                    right[place + 1] = left[place + 1].wrapping_sub(1);
                }
                let expected = left[place].cmp(&right[place]);
                assert_eq!(left[..length].cmp(&right[..length]), expected, "{length} at {place}");
                assert_ne!(left[..length], right[..length]);
            }
        }
    }
}

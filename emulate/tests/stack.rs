// SPDX-License-Identifier: GPL-2.0

use std::vec::Vec;

use super::*;

fn stack(pointer: u64, width: u8) -> Stack {
    Stack {
        segment: Segment {
            selector: 0x10,
            base: 0x1_0000,
            limit: if width == 2 { 0xffff } else { u32::MAX },
            attributes: 0x93 | if width == 4 { 1 << 14 } else { 0 },
            unusable: false,
        },
        pointer,
        width,
    }
}

/// Slots one by one, as the processor pushes them: offset and whether the limit allows
/// it.
fn slots(stack: &Stack, count: u16, size: u16) -> Option<Vec<u64>> {
    let mut pointer = stack.pointer & mask(stack.width);
    let mut at = Vec::new();
    for _ in 0..count {
        pointer = pointer.wrapping_sub(size.into()) & mask(stack.width);
        let last = pointer + u64::from(size) - 1;
        let limit = u64::from(stack.segment.limit);
        let inside = match stack.segment.expand_down() {
            true => pointer > limit && last <= mask(stack.width),
            false => last <= limit,
        };
        if !inside {
            return None;
        }
        at.extend(pointer..=last);
    }
    at.sort_unstable();
    Some(at)
}

#[test]
fn pushes_are_where_each_would_be() {
    let cpu = Cpu::default();
    for width in [2, 4] {
        for size in [2, 4] {
            for count in 1..11 {
                for pointer in (0..48).chain([0x8000, 0x8001, mask(width)]) {
                    for (limit, down) in [(0xffff_ffff, 0), (0x7fff, 0), (0x7fff, 4)] {
                        let mut stack = stack(pointer | 0xabcd << 48, width);
                        stack.segment.limit &= limit;
                        stack.segment.attributes |= down;
                        check(&cpu, &stack, count, size);
                    }
                }
            }
        }
    }
}

fn check(cpu: &Cpu, stack: &Stack, count: u16, size: u16) {
    let got = stack.push(cpu, count, size).map(|pushed| {
        let ranges = core::iter::once(pushed.at).chain(pushed.wrapped);
        let bytes = ranges.flat_map(|(gva, len)| {
            let base = stack.segment.base;
            let first = gva.get().wrapping_sub(base) & mask(4);
            (0..u64::from(len)).map(move |n| first + n)
        });
        let mut bytes: Vec<u64> = bytes.collect();
        bytes.sort_unstable();
        let below = stack.pointer.wrapping_sub(u64::from(count * size));
        assert_eq!(pushed.pointer, below & mask(stack.width));
        bytes
    });
    assert_eq!(got, slots(stack, count, size), "{stack:x?} {count} {size}");
}

#[test]
fn addresses_of_64_bits_are_canonical() {
    let cpu = Cpu::default();
    let top = 0x8000_0000_0000;
    for (pointer, want) in [
        (top, Some(top - 40)),
        (top + 1, None),
        (top + 40, None),
        (0, Some(40u64.wrapping_neg())),
        (0xffff_8000_0000_0028, Some(0xffff_8000_0000_0000)),
        (0xffff_8000_0000_0027, None),
    ] {
        let got = stack(pointer, 8).push(&cpu, 5, 8);
        assert_eq!(got.map(|pushed| pushed.at.0.get()), want, "{pointer:x}");
        assert!(got.is_none_or(|pushed| pushed.wrapped.is_none()));
    }
}

#[test]
fn slots_wrap_with_the_stack_pointer() {
    let cpu = Cpu::default();
    let stack = stack(0xfffe, 2);
    let at = |n, size| stack.slot(&cpu, n, size).map(Gva::get);
    assert_eq!(at(0, 2), Some(0x1_fffe));
    assert_eq!(at(1, 2), Some(0x1_0000));
    assert_eq!(at(0, 4), None);
}

// SPDX-License-Identifier: GPL-2.0

use super::*;

/// An area as long as AVX-512 makes it, with rubbish in it and no component in use.
fn area() -> [u8; 2688] {
    let mut area = [0xee; 2688];
    area[512..576].fill(0);
    area
}

const VALUE: Ymm = {
    let mut value = [0; 32];
    let mut n = 0;
    while n < 32 {
        value[n] = 0x80 + n as u8;
        n += 1;
    }
    value
};

#[test]
fn what_is_not_in_use_reads_as_zero() {
    let mut area = area();
    assert_eq!(read(&area, 3), [0; 32]);
    area[512] = 1 << 1;
    assert_eq!(read(&area, 3)[..16], [0xee; 16]);
    assert_eq!(read(&area, 3)[16..], [0; 16]);
    area[512] = 1 << 2;
    assert_eq!(read(&area, 3)[..16], [0; 16]);
    assert_eq!(read(&area, 3)[16..], [0xee; 16]);
}

#[test]
fn registers_are_where_the_manual_says() {
    for number in 0..16u8 {
        let mut area = area();
        write_ymm(&mut area, number, &VALUE);
        let xmm = 160 + 16 * usize::from(number);
        let high = 576 + 16 * usize::from(number);
        assert_eq!(area[xmm..xmm + 16], VALUE[..16]);
        assert_eq!(area[high..high + 16], VALUE[16..]);
        assert_eq!(area[512..520], [6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read(&area, number), VALUE);
    }
}

#[test]
fn a_first_write_clears_the_other_registers() {
    let mut area = area();
    write_xmm(&mut area, 15, &[1; 16]);
    assert_eq!(area[512], 2, "only SSE came into use");
    assert_eq!(area[160..400], [0; 240]);
    assert_eq!(area[400..416], [1; 16]);
    assert_eq!(
        area[..160],
        [0xee; 160],
        "x87 and MXCSR are not its business"
    );
    assert_eq!(area[416..512], [0xee; 96]);
    assert_eq!(area[576..832], [0xee; 256]);
    let before = area;
    write_xmm(&mut area, 0, &[2; 16]);
    assert_eq!(area[160..176], [2; 16]);
    assert_eq!(area[176..], before[176..], "a second write clears nothing");
}

#[test]
fn zero_keeps_a_component_out_of_use() {
    let mut area = area();
    write_ymm(&mut area, 5, &[0; 32]);
    assert_eq!(area[512], 0);
    let mut wide = VALUE;
    wide[16..].fill(0);
    write_ymm(&mut area, 5, &wide);
    assert_eq!(area[512], 2);
    assert_eq!(read(&area, 5), wide);
}

#[test]
fn legacy_writes_keep_what_is_above_and_vex_clears_it() {
    let mut area = area();
    area[512] = 0x46;
    write_xmm(&mut area, 7, &[1; 16]);
    assert_eq!(read(&area, 7)[..16], [1; 16]);
    assert_eq!(read(&area, 7)[16..], [0xee; 16]);
    let mut want = area;
    let mut wide = VALUE;
    wide[16..].fill(0);
    write_ymm(&mut area, 7, &wide);
    want[160 + 7 * 16..][..16].copy_from_slice(&VALUE[..16]);
    want[576 + 7 * 16..][..16].fill(0);
    want[1152 + 7 * 32..][..32].fill(0);
    assert!(area == want, "ZMM7 is clear above bit 127, and no other is");
}

#[test]
fn an_area_may_end_early() {
    assert!(holds(&[0; 576], false));
    assert!(!holds(&[0; 575], false));
    assert!(holds(&[0; 832], true));
    assert!(!holds(&[0; 831], true));
    let mut short = [0xee; 832];
    short[512..576].fill(0);
    write_ymm(&mut short, 15, &VALUE);
    assert_eq!(read(&short, 15), VALUE);
    write_ymm(&mut [], 15, &VALUE);
    assert_eq!(read(&[], 15), [0; 32]);
}

// SPDX-License-Identifier: GPL-2.0

use spp::Mask;

use super::*;
use crate::cpu::rflags::{ARITHMETIC, DF, RF, TF, ZF};
use crate::memory::Ram;
use crate::model::Event;
use crate::stop::DeviceRead;
use crate::GuestPhys;

const DEVICE: u64 = 0x2_0000;

/// Executes until the end, and says where it paused: RCX each time.
#[track_caller]
fn repeat(machine: &mut Machine, bytes: &[u8]) -> (Result<(), Stop>, std::vec::Vec<u64>) {
    let insn = decoded(machine, bytes);
    let rip = machine.cpu.rip;
    let mut pauses = std::vec::Vec::new();
    machine.cpu.rflags &= !RF;
    loop {
        machine.journal.begin(rip);
        match execute(&mut machine.guest(), &insn) {
            Ok(Done::Partial) => {
                assert_eq!((machine.cpu.rip, machine.cpu.rflags & RF), (rip, RF));
                pauses.push(machine.cpu.gprs[1]);
            }
            Ok(Done::Retired) => {
                assert_eq!(machine.cpu.rip, rip + u64::from(insn.len));
                assert_eq!(machine.cpu.rflags & RF, 0);
                machine.cpu.rip = rip;
                return (Ok(()), pauses);
            }
            Err(stop) => {
                assert_eq!(machine.cpu.rip, rip);
                let saved = matches!(stop, Stop::Exception(_) | Stop::Denied(_));
                let paused = !pauses.is_empty();
                assert_eq!(machine.cpu.rflags & RF != 0, saved || paused, "{stop:?}");
                return (Err(stop), pauses);
            }
        }
        assert!(pauses.len() < 100_000);
    }
}

/// What is expected of REP MOVS and STOS: one element after the other, by the maps.
struct Expected {
    ram: Ram,
    rcx: u64,
    rsi: u64,
    rdi: u64,
    denied: Option<u64>,
}

fn expected(machine: &Machine, movs: bool, size: u8) -> Expected {
    let gprs = machine.cpu.gprs;
    let mut all = Expected {
        ram: machine.model.ram.clone(),
        rcx: gprs[1],
        rsi: gprs[6],
        rdi: gprs[7],
        denied: None,
    };
    let step = match machine.cpu.rflags & DF {
        0 => u64::from(size),
        _ => u64::from(size).wrapping_neg(),
    };
    while all.rcx > 0 {
        let to = all.rdi..all.rdi + u64::from(size);
        let allowed = |at: &u64| {
            let map = machine.model.maps.get(&(at >> 12)).copied();
            map.unwrap_or(Mask::ALL).raw() >> (at / 128 % 32) & 1 == 1
        };
        all.denied = to.clone().find(|at| !allowed(at));
        if all.denied.is_some() {
            return all;
        }
        let mut element = gprs[0].to_le_bytes();
        if movs {
            for (n, byte) in element.iter_mut().enumerate().take(size.into()) {
                let at = ept::Gpa::new(all.rsi + n as u64);
                assert!(all.ram.read(at, core::slice::from_mut(byte)));
            }
            all.rsi = all.rsi.wrapping_add(step);
        }
        all.ram.write(all.rdi, &element[..size.into()]);
        all.rdi = all.rdi.wrapping_add(step);
        all.rcx -= 1;
    }
    all
}

/// Everything about REP MOVS and STOS that maps, sizes, overlaps and directions can do:
/// many elements at once must look as one by one.
#[test]
fn stops_exactly_at_the_denied_element() {
    let mut random = Random(20);
    let mut start = machine();
    for n in 0..0x600 {
        start.model.ram.write_u64(0x3000 + n * 8, random.next());
    }
    let (mut denied, mut finished, mut bulk) = (0, 0, 0);
    for n in 0..3000 {
        let mut machine = machine();
        machine.model.ram = start.model.ram.clone();
        let size = SIZES[n % 4];
        let movs = n / 4 % 3 != 0;
        machine.cpu.gprs[0] = random.next();
        machine.cpu.gprs[1] = random.below(600);
        machine.cpu.gprs[6] = 0x3800 + random.below(0x1000);
        machine.cpu.gprs[7] = match random.below(3) {
            // Near by, to either side.
            0 => machine.cpu.gprs[6] - 40 + random.below(80),
            _ => 0x3800 + random.below(0x1000),
        };
        machine.cpu.rflags = 2;
        if random.below(4) == 0 {
            machine.cpu.rflags |= DF;
            machine.cpu.gprs[1] = random.below(100);
        }
        if random.below(8) == 0 {
            machine.cpu.rflags |= TF;
            machine.cpu.gprs[1] = random.below(50);
        }
        if random.below(4) > 0 {
            for page in 3..6u64 {
                let map = random.next() as u32 | random.next() as u32 | random.next() as u32;
                machine.model.protect(page << 12, map);
            }
        }
        let want = expected(&machine, movs, size);
        let bytes = wide(size, &[if movs { 0xa5 } else { 0xab }], &[]);
        let bytes = [&[0xf3], &bytes[..]].concat();
        let started = machine.cpu;
        let (end, pauses) = repeat(&mut machine, &bytes);
        match want.denied {
            Some(at) => {
                let got = denial(end);
                assert_eq!(got.gpa.get(), at, "{started:x?}");
                assert_eq!((got.gva.get(), got.size), (at, size.into()));
                denied += 1;
            }
            None => {
                assert_eq!(end, Ok(()));
                finished += 1;
            }
        }
        let [_, rcx, _, _, _, _, rsi, rdi, ..] = machine.cpu.gprs;
        assert_eq!(
            (rcx, rsi, rdi),
            (want.rcx, want.rsi, want.rdi),
            "{started:x?}"
        );
        assert!(machine.model.ram == want.ram, "{bytes:x?} {started:x?}");
        if started.rflags & TF != 0 {
            // After each element but the last, which is the end.
            let elements = (started.gprs[1] - rcx) as usize;
            let last = usize::from(rcx == 0 && elements > 0);
            assert_eq!(pauses.len(), elements - last);
        } else {
            assert_eq!(pauses, []);
        }
        let largest = machine.model.writes().into_iter().map(|event| match event {
            Event::Write(_, len) => len,
            _ => 0,
        });
        bulk += usize::from(largest.max() > Some(8));
    }
    assert!(
        denied > 500 && finished > 500 && bulk > 500,
        "{denied} {finished} {bulk}"
    );
}

/// Two linear addresses of one page: what overlaps in memory overlaps.
#[test]
fn overlaps_of_aliases() {
    let mut machine = machine();
    small_pages(&mut machine, |page| {
        let frame = if page == 9 { 4 } else { page };
        frame << 12 | 0x67
    });
    machine.model.ram.write(0x4000, b"abc");
    machine.cpu.gprs[1] = 9;
    machine.cpu.gprs[6] = 0x4000;
    machine.cpu.gprs[7] = 0x9003;
    assert_eq!(repeat(&mut machine, &[0xf3, 0xa4]).0, Ok(()));
    assert_eq!(&machine.bytes::<12>(0x4000), b"abcabcabcabc");
}

/// Interrupts are taken in between.
#[test]
fn pauses() {
    for bytes in [
        &[0xf3, 0xa4][..],
        &[0xf3, 0xaa],
        &[0xf3, 0xac],
        &[0xf3, 0xa6],
        &[0xf2, 0xae],
    ] {
        let mut machine = machine();
        machine.cpu.gprs[0] = 1;
        machine.cpu.gprs[1] = 2500;
        machine.cpu.gprs[6] = 0x3000;
        machine.cpu.gprs[7] = 0x4000;
        let (end, pauses) = repeat(&mut machine, bytes);
        assert_eq!((end, pauses), (Ok(()), std::vec![2048, 1024]), "{bytes:x?}");
        assert_eq!(machine.cpu.gprs[1], 0);
    }
}

#[test]
fn from_a_device() {
    let mut machine = machine();
    machine.cpu.gprs[1] = 300;
    machine.cpu.gprs[6] = DEVICE;
    machine.cpu.gprs[7] = 0x4000;
    machine.model.protect(0x4000, !2);
    let rep = &[0xf3, 0xa4];
    for n in 0..128 {
        let read = DeviceRead {
            gpa: ept::Gpa::new(DEVICE + n),
            len: 1,
        };
        assert_eq!(
            repeat(&mut machine, rep),
            (Err(Stop::DeviceRead(read)), std::vec![])
        );
        assert_eq!(machine.cpu.gprs[1], 300 - n);
        assert!(machine.journal.supply(read, [n as u8; 8]));
    }
    // The next one has no place, and so it is not read.
    let (end, _) = repeat(&mut machine, rep);
    assert_eq!(denial(end).gpa.get(), 0x4080);
    let [_, rcx, _, _, _, _, rsi, rdi, ..] = machine.cpu.gprs;
    assert_eq!((rcx, rsi, rdi), (172, DEVICE + 128, 0x4080));
    let all: [u8; 129] = machine.bytes(0x4000);
    assert_eq!(
        all,
        core::array::from_fn(|n| if n < 128 { n as u8 } else { 0 })
    );
}

#[test]
fn to_a_device() {
    let mut machine = machine();
    machine.model.ram.write(0x3000, &[1, 2]);
    machine.cpu.gprs[1] = 2;
    machine.cpu.gprs[6] = 0x3000;
    machine.cpu.gprs[7] = DEVICE;
    let insn = decoded(&machine, &[0xf3, 0xa4]);
    for (n, end) in [Done::Partial, Done::Retired].into_iter().enumerate() {
        assert_eq!(execute(&mut machine.guest(), &insn), Ok(end));
        let write = machine.journal.next_write().unwrap();
        assert_eq!((write.gpa, write.data[0]), (DEVICE + n as u64, n as u8 + 1));
        assert_eq!(machine.journal.next_write(), None);
        assert_eq!(machine.cpu.gprs[1], 1 - n as u64);
    }
    // Read-only memory is one too.
    machine.model.rom.insert(4);
    machine.cpu.gprs[1] = 2;
    machine.cpu.gprs[7] = 0x4000;
    machine.cpu.rip = crate::machine::RIP;
    let insn = decoded(&machine, &[0xf3, 0xaa]);
    assert_eq!(execute(&mut machine.guest(), &insn), Ok(Done::Partial));
    assert_eq!(machine.journal.next_write().map(|w| w.gpa), Some(0x4000));
    assert_eq!(machine.bytes(0x4000), [0]);
}

#[test]
fn comparisons_end_where_they_should() {
    let mut random = Random(21);
    for n in 0..1000 {
        let size = SIZES[n % 4];
        let (scas, repne) = (n / 4 % 2 == 0, n / 8 % 2 == 0);
        let mut machine = machine();
        machine.cpu.gprs[0] = 0;
        let count = random.below(40);
        machine.cpu.gprs[1] = count;
        machine.cpu.gprs[6] = 0x3000;
        machine.cpu.gprs[7] = 0x4000;
        let odd = random.below(40);
        for element in 0..40 {
            // All are like RAX and the source but one, or the other way round.
            let like = (element == odd) == repne;
            let at = 0x4000 + element * u64::from(size);
            machine.model.ram.write(at, &[u8::from(!like)]);
        }
        let before = machine.cpu.rflags;
        let prefix = if repne { 0xf2 } else { 0xf3 };
        let bytes = wide(size, &[if scas { 0xaf } else { 0xa7 }], &[]);
        let bytes = [&[prefix], &bytes[..]].concat();
        assert_eq!(repeat(&mut machine, &bytes), (Ok(()), std::vec![]));
        let done = (odd + 1).min(count);
        assert_eq!(machine.cpu.gprs[1], count - done);
        assert_eq!(machine.cpu.gprs[7], 0x4000 + done * u64::from(size));
        let moved = if scas { 0 } else { done * u64::from(size) };
        assert_eq!(machine.cpu.gprs[6], 0x3000 + moved);
        if count == 0 {
            assert_eq!(machine.cpu.rflags, before);
        } else {
            assert_eq!(machine.cpu.rflags & ZF != 0, (odd < count) == repne);
        }
    }
}

/// A fault takes the flags back to those before the instruction (SDM 2B, REP).
#[test]
fn a_fault_in_a_comparison() {
    let mut machine = machine();
    machine.cpu.gprs[1] = 100;
    machine.cpu.gprs[6] = 0x3000;
    machine.cpu.gprs[7] = 0x20_0000 - 10;
    for page in 0x1f0..0x200 {
        machine.model.ram.write(page << 12, &[0]);
    }
    machine.cpu.rflags = 2 | ARITHMETIC & !ZF;
    let (end, _) = repeat(&mut machine, &[0xf3, 0xa6]);
    assert_eq!(end, Err(page_fault(0x20_0000, 0)));
    let [_, rcx, _, _, _, _, rsi, rdi, ..] = machine.cpu.gprs;
    assert_eq!((rcx, rsi, rdi), (90, 0x300a, 0x20_0000));
    assert_eq!(machine.cpu.rflags, 2 | RF | ARITHMETIC & !ZF);
}

/// Whatever happens between the check and the write, what is finished is counted, and
/// nothing else has happened.
#[test]
fn others_in_between() {
    use crate::model::Meanwhile;
    let mut machine = machine();
    for n in 0..64 {
        machine
            .model
            .ram
            .write_u64(0x3000 + n * 8, 0x0101_0101_0101_0101);
    }
    machine.cpu.gprs[1] = 512;
    machine.cpu.gprs[6] = 0x3000;
    machine.cpu.gprs[7] = 0x4000;
    // The second of two writes of 256 bytes.
    let gone = Meanwhile::Map(0x4000, Mask::from_raw(!8));
    machine.model.meanwhile = std::vec![gone, Meanwhile::Map(0x4000, Mask::ALL)];
    let (end, _) = repeat(&mut machine, &[0xf3, 0xa4]);
    assert_eq!(end, Err(Stop::Retry));
    assert_eq!(machine.cpu.gprs[1], 256);
    assert_eq!(machine.bytes(0x40ff), [1, 0]);
    let (end, _) = repeat(&mut machine, &[0xf3, 0xa4]);
    assert_eq!(denial(end).gpa.get(), 0x4180);
    assert_eq!(machine.cpu.gprs[1], 128);
    assert_eq!(machine.bytes(0x417f), [1, 0]);
}

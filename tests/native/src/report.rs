// SPDX-License-Identifier: GPL-2.0

//! A failure in full.

use std::fmt::{self, Write};

use emulate::cpu::Cpu;
use emulate::insn::Seg;

use crate::compare::GPRS;
use crate::mode::Mode;
use crate::session::Failure;

/// All that is known of a failure. `seed`: as given on the command line.
pub fn failure(failure: &Failure, mode: Mode, seed: u64) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, failure, mode, seed);
    text
}

fn write(out: &mut String, failure: &Failure, mode: Mode, seed: u64) -> fmt::Result {
    let Failure { batch, number, .. } = failure;
    let case = &failure.case;
    let differences: Vec<String> = failure
        .differences
        .iter()
        .map(ToString::to_string)
        .collect();
    let op = case.insn.op.name();
    writeln!(
        out,
        "{op}, {mode}-bit code: {} differ",
        differences.join(", ")
    )?;
    writeln!(
        out,
        "repeat: native-diff --seed {seed} --mode {mode} --batch {batch} --case {number}"
    )?;
    let bytes: Vec<String> = case
        .code()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    writeln!(out, "bytes: {}", bytes.join(" "))?;
    writeln!(out, "decoded: {:?}", case.insn)?;
    writeln!(out, "memory: {:?}", failure.setup.plan)?;
    segments(out, &case.start)?;
    ends(out, failure)?;
    registers(out, failure)?;
    vectors(out, failure)
}

/// XMM and YMM registers of an instruction that uses them.
fn vectors(out: &mut String, failure: &Failure) -> fmt::Result {
    let (Some(start), Some(end)) = (&failure.case.xsave, &failure.emulated.xsave) else {
        return Ok(());
    };
    for n in 0..16 {
        let xmm = |area: &[u8]| hex(&area[160 + 16 * n..][..16]);
        let high = |area: &[u8]| hex(&area[576 + 16 * n..][..16]);
        let (start, end) = (&start[..], &end[..]);
        let (start, end) = (
            format!("{} {}", high(start), xmm(start)),
            format!("{} {}", high(end), xmm(end)),
        );
        writeln!(out, "XMM{n:<2} {start} -> emulated {end}")?;
    }
    Ok(())
}

/// Bytes as one number.
fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes
        .iter()
        .rev()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    digits.concat()
}

fn segments(out: &mut String, cpu: &Cpu) -> fmt::Result {
    for seg in [Seg::Es, Seg::Cs, Seg::Ss, Seg::Ds, Seg::Fs, Seg::Gs] {
        let s = cpu.segment(seg);
        let usable = if s.unusable { ", unusable" } else { "" };
        writeln!(
            out,
            "{seg:?}: {:#06x}, base {:#x}, limit {:#x}, attributes {:#06x}{usable}",
            s.selector, s.base, s.limit, s.attributes
        )?;
    }
    Ok(())
}

fn ends(out: &mut String, failure: &Failure) -> fmt::Result {
    let native = &failure.native;
    match native.exception {
        None => writeln!(out, "native: retired")?,
        Some(exception) => writeln!(out, "native: {exception:?}")?,
    }
    match failure.emulated.stop {
        None => writeln!(out, "emulated: retired"),
        Some(stop) => writeln!(out, "emulated: {stop:?}"),
    }
}

fn registers(out: &mut String, failure: &Failure) -> fmt::Result {
    let start = &failure.case.start;
    let native = &failure.native;
    let emulated = &failure.emulated.cpu;
    let rows = [
        ("RIP", start.rip, native.rip, emulated.rip),
        ("RFLAGS", start.rflags, native.end.rflags, emulated.rflags),
    ];
    let gprs = GPRS
        .iter()
        .enumerate()
        .map(|(n, name)| (*name, start.gprs[n], native.end.gprs[n], emulated.gprs[n]));
    writeln!(
        out,
        "{:8}{:18} {:18} {:18}",
        "", "start", "native", "emulated"
    )?;
    for (name, start, native, emulated) in rows.into_iter().chain(gprs) {
        let mark = if native == emulated { "" } else { " <--" };
        writeln!(
            out,
            "{name:8}{start:#018x} {native:#018x} {emulated:#018x}{mark}"
        )?;
    }
    Ok(())
}

// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::asm::*;
use iced_x86::{Decoder, DecoderOptions};

#[test]
fn lengths_are_those_of_a_decoder() {
    for mode in Mode::ALL {
        let program = Program::assemble(mode, 0x8000, |a| {
            let mut end = a.create_label();
            a.mov(eax, 0x1234_5678)?;
            a.jmp(end)?;
            a.add(al, 1)?;
            a.set_label(&mut end)?;
            a.hlt()?;
            Ok(vec![end])
        })
        .unwrap();
        let mut decoder =
            Decoder::with_ip(mode.bitness(), &program.code, 0x8000, DecoderOptions::NONE);
        let decoded: Vec<(u64, u64)> = decoder.iter().map(|i| (i.ip(), i.len() as u64)).collect();
        let ours: Vec<(u64, u64)> = program
            .instructions()
            .map(|ip| (ip, program.len_at(ip).unwrap()))
            .collect();
        assert_eq!(ours, decoded, "{mode:?}");
        assert_eq!(program.labels, [decoded[3].0]);
        assert_eq!(program.len_at(0x8001), None);
    }
}

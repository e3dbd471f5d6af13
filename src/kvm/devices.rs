// SPDX-License-Identifier: GPL-2.0

//! The devices of emulated instructions: user space is asked for what they read, and told
//! what they write.

use super::{
    area::Area,
    emulator,
    report::UserExit,
    vcpu::{
        Pending,
        State, //
    },
    violation,
    vm::Vm, //
};
use emulate::stop::{
    DeviceRead,
    PortRead, //
};
use ioctl_api::run;
use kernel::prelude::*;

/// Asks user space to read a device.
pub(crate) fn ask(state: &mut State, read: DeviceRead) -> UserExit {
    state.guest.pending = Some(Pending::Device {
        linear_rip: state.guest.linear_rip(),
        read,
    });
    UserExit::Mmio(run::MmioExit {
        phys_addr: read.gpa.get(),
        len: read.len.into(),
        ..run::MmioExit::default()
    })
}

/// Asks user space to read a port.
pub(crate) fn ask_port(state: &mut State, read: PortRead) -> UserExit {
    state.guest.pending = Some(Pending::Ports {
        linear_rip: state.guest.linear_rip(),
        read,
    });
    UserExit::Io(run::IoExit {
        direction: run::KVM_EXIT_IO_IN,
        size: read.size,
        port: read.port,
        count: read.count.into(),
        data_offset: run::PIO_DATA as u64,
    })
}

/// Tells devices what finished instructions have written: those in the kernel at once, those
/// in user space one exit at a time.
pub(crate) fn tell(vm: &Vm, area: &Area, state: &mut State) -> Option<UserExit> {
    let journal = &mut state.emulator.journal;
    if let Some((port, size, value)) = journal.take_port_write() {
        let bytes = value.to_le_bytes();
        let bytes = bytes.get(..usize::from(size)).unwrap_or(&bytes);
        if !vm.bus.port_write(port, bytes, area) {
            area.store(run::PIO_DATA, value);
            return Some(UserExit::Io(run::IoExit {
                direction: run::KVM_EXIT_IO_OUT,
                size,
                port,
                count: 1,
                data_offset: run::PIO_DATA as u64,
            }));
        }
    }
    while let Some(word) = journal.next_write() {
        let bytes = word.data.get(..usize::from(word.len)).unwrap_or(&word.data);
        if !vm.bus.mmio_write(word.gpa, bytes, area) {
            state.guest.pending = Some(Pending::Writes);
            return Some(UserExit::Mmio(run::MmioExit {
                phys_addr: word.gpa,
                data: word.data,
                len: word.len.into(),
                is_write: 1,
                ..run::MmioExit::default()
            }));
        }
    }
    None
}

/// The data of a device has come: the instruction is executed again.
pub(crate) fn resume(
    vm: &Vm,
    area: &Area,
    state: &mut State,
    read: DeviceRead,
) -> Result<Option<UserExit>> {
    let data = area.load::<u64>(run::MMIO_DATA).to_le_bytes();
    if !state.emulator.journal.supply(read, data) {
        return violation::emulation_failure(vm, state).map(Some);
    }
    emulator::resume(vm, area, state)
}

/// The data of a port has come: the instruction is executed again.
pub(crate) fn resume_port(
    vm: &Vm,
    area: &Area,
    state: &mut State,
    read: PortRead,
) -> Result<Option<UserExit>> {
    let len = usize::from(read.count) * usize::from(read.size);
    area.read(run::PIO_DATA, state.emulator.journal.port_space(read, len));
    emulator::resume(vm, area, state)
}

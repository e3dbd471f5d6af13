// SPDX-License-Identifier: GPL-2.0

//! A VM that is about to run a program, with an IDT that tells user space of
//! each exception and interrupt before the guest goes on.
//!
//! ```text
//!   0x2000  IDT (real mode: the IVT at 0)
//!   0x3000  stub n at 0x3000 + 16 * n:  out 0xe0, al ; drop error code ; iret
//! ```
//! While a stub is at its OUT, the frame is on the guest's stack, where a test
//! reads and changes it.

use crate::harness::{self, Lab};
use crate::raw::{self, Mapping, Sys};
use guest::asm::CodeAssembler;
use guest::{AssembleError, Mode, Program, CODE, PAGE_SIZE, STACK, TABLES};
use ioctl_api::memory::UserMemoryRegion;
use ioctl_api::number::KVM_SET_USER_MEMORY_REGION;
use ioctl_api::run::{IoExit, MmioExit, PIO_DATA, PIO_DATA_SIZE};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuExit;
use vmm::{Vcpu, Vm};

/// Bytes of guest memory.
pub(crate) const MEMORY: usize = 4 << 20;
/// An address that no memslot has but page tables map.
pub(crate) const HOLE: u64 = 0x100_0000;

const IDT: u64 = 0x2000;
const STUBS: u64 = 0x3000;
const STUB_SIZE: u64 = 16;
const STUB_PORT: u16 = 0xe0;
const VECTORS: u64 = 64;
/// Task-state segment, and the stack that it names, for tests that ask for them.
const TSS: u64 = 0x4000;
const HANDLER_STACK: u64 = 0x6000;
const ERROR_CODES: u64 = (1 << 8) | (0x1f << 10) | (1 << 17);

/// Why the guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// HLT.
    Hlt,
    /// OUT to a port.
    Out(u16, Vec<u8>),
    /// IN of so many bytes from a port.
    In(u16, usize),
    /// An exception or interrupt has been delivered.
    Event(Event),
    /// A write was denied by a sub-page map.
    Spp(vmm::SppExit),
    /// Triple fault.
    Shutdown,
    /// An interrupt can be injected.
    IrqWindow,
    /// CR8 fell.
    SetTpr,
    /// `KVM_RUN` failed with this error number.
    Error(i32),
    /// A read of so many bytes at an address that no memory slot has.
    MmioRead(u64, usize),
    /// A write of these bytes to such an address, or to read-only memory.
    MmioWrite(u64, Vec<u8>),
    /// Instruction bytes of one that nobody can emulate.
    Emulate(Vec<u8>),
    /// Anything else.
    Other(String),
}

impl Stop {
    /// It is an access to a device at `gpa`.
    pub(crate) fn is_mmio(&self, gpa: u64) -> bool {
        match self {
            Self::MmioRead(at, _) | Self::MmioWrite(at, _) => *at == gpa,
            _ => false,
        }
    }
}

/// What delivery of an event has pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Vector.
    pub(crate) vector: u8,
    /// Error code, or 0.
    pub(crate) error: u64,
    /// RIP pushed.
    pub(crate) rip: u64,
    /// RFLAGS pushed.
    pub(crate) rflags: u64,
    /// Where the frame's RIP is in memory.
    pub(crate) frame: u64,
}

/// A VM, its vCPU and its program.
pub(crate) struct Machine {
    pub(crate) vm: Vm,
    pub(crate) cpu: Vcpu,
    pub(crate) program: Program,
}

/// What a test does to assemble its program.
pub(crate) type Assembled<T = ()> = Result<T, AssembleError>;

/// Assembles a program for [`CODE`].
pub(crate) fn program(mode: Mode, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Program {
    Program::assemble(mode, CODE, |a| author(a).map(|()| vec![])).expect("a program")
}

/// A VM with memory and nothing else.
pub(crate) fn vm(lab: &Lab) -> Vm {
    Vm::open(lab.device(), MEMORY).expect("a VM")
}

/// The same with sub-page write permissions, or a skipped test.
pub(crate) fn spp_vm(lab: &Lab) -> Vm {
    let vm = vm(lab);
    lab.enable_spp(&vm);
    vm
}

/// `KVM_SET_USER_MEMORY_REGION` with all of a mapping.
pub(crate) fn add_slot(vm: &Vm, slot: u32, gpa: u64, memory: &Mapping, flags: u32) -> Sys {
    set_slot(vm, slot, gpa, memory, memory.len() as u64, flags)
}

/// `KVM_SET_USER_MEMORY_REGION`.
pub(crate) fn set_slot(
    vm: &Vm,
    slot: u32,
    guest_phys_addr: u64,
    memory: &Mapping,
    memory_size: u64,
    flags: u32,
) -> Sys {
    let mut region = UserMemoryRegion {
        slot,
        flags,
        guest_phys_addr,
        memory_size,
        userspace_addr: memory.address() as u64,
    };
    raw::with(vm.fd(), KVM_SET_USER_MEMORY_REGION, &mut region)
}

impl Machine {
    /// A VM about to run what `author` writes.
    pub(crate) fn new(
        lab: &Lab,
        mode: Mode,
        author: impl FnOnce(&mut CodeAssembler) -> Assembled,
    ) -> Self {
        Self::load(vm(lab), program(mode, author))
    }

    /// The same in 64-bit mode.
    pub(crate) fn long(lab: &Lab, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Self {
        Self::new(lab, Mode::Long, author)
    }

    /// The same with sub-page write permissions.
    pub(crate) fn spp(lab: &Lab, author: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Self {
        Self::load(spp_vm(lab), program(Mode::Long, author))
    }

    /// Boots `program` in `vm`.
    pub(crate) fn load(vm: Vm, program: Program) -> Self {
        let cpu = vm.boot(&program).expect("boot");
        let machine = Self { vm, cpu, program };
        machine.load_idt();
        machine
    }

    fn load_idt(&self) {
        let mode = self.program.mode;
        for vector in 0..VECTORS {
            let stub = STUBS + STUB_SIZE * vector;
            self.write(stub, &stub_code(mode, (ERROR_CODES >> vector) & 1 != 0));
            let (at, gate) = gate(mode, vector, stub);
            self.write(at, &gate);
        }
        if mode != Mode::Real {
            let mut sregs = self.sregs();
            sregs.idt.base = IDT;
            sregs.idt.limit = 0xfff;
            self.set_sregs(&sregs);
        }
    }

    /// Gives the handlers a stack of their own, whatever the guest's is and whoever
    /// is interrupted. For 64-bit mode.
    pub(crate) fn use_handler_stack(&self) {
        // RSP0 and IST1 (SDM 3A 8.7).
        self.write(TSS + 4, &HANDLER_STACK.to_le_bytes());
        self.write(TSS + 0x24, &HANDLER_STACK.to_le_bytes());
        for vector in 0..VECTORS {
            self.write(IDT + 16 * vector + 4, &[1]);
        }
        let mut sregs = self.sregs();
        (sregs.tr.base, sregs.tr.limit, sregs.tr.type_) = (TSS, 0x67, 11);
        (sregs.tr.present, sregs.tr.s, sregs.tr.selector) = (1, 0, 0x18);
        self.set_sregs(&sregs);
    }

    /// Makes the guest, in 64-bit mode, user code. Its pages must be for user code too.
    pub(crate) fn become_user(&self) {
        let mut sregs = self.sregs();
        (sregs.cs.dpl, sregs.cs.selector) = (3, 0x0b);
        (sregs.ss.dpl, sregs.ss.selector) = (3, 0x13);
        self.set_sregs(&sregs);
    }

    /// Lets user code access the first GiB.
    pub(crate) fn open_to_user(&self) {
        let leaves = TABLES + 2 * PAGE_SIZE;
        let entries = [TABLES, TABLES + PAGE_SIZE].into_iter();
        for entry in entries.chain((0..512).map(|n| leaves + 8 * n)) {
            self.set_qword(entry, self.qword(entry) | 4);
        }
    }

    /// Runs until the guest stops.
    pub(crate) fn run(&mut self) -> Stop {
        let port_or = match self.cpu.fd_mut().run() {
            Ok(VcpuExit::IoOut(port, data)) => Stop::Out(port, data.to_vec()),
            Ok(VcpuExit::IoIn(port, data)) => Stop::In(port, data.len()),
            Ok(VcpuExit::Hlt) => Stop::Hlt,
            Ok(VcpuExit::Shutdown) => Stop::Shutdown,
            Ok(VcpuExit::IrqWindowOpen) => Stop::IrqWindow,
            Ok(VcpuExit::SetTpr) => Stop::SetTpr,
            Ok(VcpuExit::Unsupported(ioctl_api::subpage::KVM_EXIT_SPP)) => {
                Stop::Spp(self.payload())
            }
            Ok(VcpuExit::MmioRead(gpa, data)) => Stop::MmioRead(gpa, data.len()),
            Ok(VcpuExit::MmioWrite(gpa, data)) => Stop::MmioWrite(gpa, data.to_vec()),
            Ok(VcpuExit::InternalError) => self.internal_error(),
            Ok(other) => Stop::Other(format!("{other:?}")),
            Err(error) => {
                harness::check_time();
                Stop::Error(error.errno())
            }
        };
        match port_or {
            Stop::Out(STUB_PORT, _) => Stop::Event(self.event()),
            other => other,
        }
    }

    fn payload<T: zerocopy::FromBytes>(&mut self) -> T {
        let run = self.cpu.fd_mut().get_kvm_run();
        // SAFETY: `padding` covers the whole union, and any bytes are valid.
        let bytes = unsafe { run.__bindgen_anon_1.padding }.map(|b| b.to_ne_bytes()[0]);
        T::read_from_prefix(&bytes)
            .expect("a payload smaller than the union")
            .0
    }

    fn internal_error(&mut self) -> Stop {
        let error: ioctl_api::run::EmulationFailure = self.payload();
        match (error.suberror, error.flags & 1) {
            (1, 1) => Stop::Emulate(error.insn_bytes[..error.insn_size.into()].to_vec()),
            _ => Stop::Other(format!(
                "{:x?}",
                self.payload::<ioctl_api::run::InternalError>()
            )),
        }
    }

    fn event(&self) -> Event {
        let regs = self.regs();
        let vector = (regs.rip - STUBS) / STUB_SIZE;
        let word = self.word_size() as u64;
        let has_error = self.program.mode != Mode::Real && (ERROR_CODES >> vector) & 1 != 0;
        let frame = regs.rsp + word * u64::from(has_error);
        let at = |address: u64| self.word(address, word as usize);
        Event {
            vector: vector as u8,
            error: if has_error { at(regs.rsp) } else { 0 },
            rip: at(frame),
            rflags: at(frame + 2 * word),
            frame,
        }
    }

    /// Runs until an exception or interrupt is delivered, and checks its vector.
    pub(crate) fn expect_event(&mut self, vector: u8) -> Event {
        match self.run() {
            Stop::Event(event) if event.vector == vector => event,
            other => panic!("vector {vector} expected, not {other:x?}"),
        }
    }

    /// Runs until a sub-page map denies a write.
    pub(crate) fn expect_spp(&mut self) -> vmm::SppExit {
        match self.run() {
            Stop::Spp(exit) => exit,
            other => panic!("KVM_EXIT_SPP expected, not {other:x?}"),
        }
    }

    /// Runs until HLT.
    pub(crate) fn expect_hlt(&mut self) {
        assert_eq!(self.run(), Stop::Hlt, "rip {:#x}", self.regs().rip);
    }

    /// Lets the handler of `event` return behind the instruction at its RIP.
    pub(crate) fn step_over(&self, event: &Event) {
        let len = self.program.len_at(event.rip);
        let next = event.rip + len.expect("an instruction of the program");
        self.write(event.frame, &next.to_le_bytes()[..self.word_size()]);
    }

    /// General registers.
    pub(crate) fn regs(&self) -> kvm_regs {
        self.cpu.regs().expect("KVM_GET_REGS")
    }

    /// Changes general registers.
    pub(crate) fn change_regs(&self, change: impl FnOnce(&mut kvm_regs)) {
        let mut regs = self.regs();
        change(&mut regs);
        self.cpu.set_regs(&regs).expect("KVM_SET_REGS");
    }

    /// Answers the IN that the guest stopped at.
    pub(crate) fn answer(&self, value: u32) {
        self.port_data().write(0, value.into());
    }

    /// The data of the last I/O exit.
    pub(crate) fn port_data(&self) -> Mapping {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        Mapping::file(self.cpu.fd(), PIO_DATA_SIZE, prot, PIO_DATA as i64).expect("mmap")
    }

    /// The payload of the last exit, one for a port.
    pub(crate) fn io_exit(&mut self) -> IoExit {
        self.payload()
    }

    /// The payload of the last exit, one for a device.
    pub(crate) fn mmio_exit(&mut self) -> MmioExit {
        self.payload()
    }

    /// Answers the read of a device that the guest stopped at.
    pub(crate) fn answer_mmio(&mut self, data: &[u8]) {
        let run = self.cpu.fd_mut().get_kvm_run();
        // SAFETY: any bytes are valid in either member of the union.
        let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
        mmio.data[..data.len()].copy_from_slice(data);
    }

    /// Sets `immediate_exit` of `struct kvm_run`.
    pub(crate) fn set_immediate_exit(&mut self, on: bool) {
        self.cpu.fd_mut().set_kvm_immediate_exit(on.into());
    }

    /// Lets the device finish what the last exit left to be finished, without
    /// running the guest. What a device register would read is 0.
    pub(crate) fn finish_pending(&mut self) {
        self.set_immediate_exit(true);
        while self.run() != Stop::Error(libc::EINTR) {}
        self.set_immediate_exit(false);
    }

    /// Starts the program again.
    pub(crate) fn restart(&mut self) {
        self.finish_pending();
        let rip = self.program.address;
        self.change_regs(|r| (r.rip, r.rsp, r.rflags) = (rip, STACK, 2));
    }

    /// Special registers.
    pub(crate) fn sregs(&self) -> kvm_sregs {
        self.cpu.fd().get_sregs().expect("KVM_GET_SREGS")
    }

    /// Changes special registers.
    pub(crate) fn set_sregs(&self, sregs: &kvm_sregs) {
        self.cpu.fd().set_sregs(sregs).expect("KVM_SET_SREGS");
    }

    /// Writes guest memory.
    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) {
        self.vm.write(gpa, bytes).expect("guest memory");
    }

    /// Reads guest memory.
    pub(crate) fn read(&self, gpa: u64, len: usize) -> Vec<u8> {
        self.vm.read(gpa, len).expect("guest memory")
    }

    /// Bytes of a word of an interrupt's frame.
    fn word_size(&self) -> usize {
        match self.program.mode {
            Mode::Real => 2,
            Mode::Long => 8,
            _ => 4,
        }
    }

    fn word(&self, gpa: u64, len: usize) -> u64 {
        let mut word = [0; 8];
        word[..len].copy_from_slice(&self.read(gpa, len));
        u64::from_le_bytes(word)
    }

    /// Reads 8 bytes of guest memory.
    pub(crate) fn qword(&self, gpa: u64) -> u64 {
        self.word(gpa, 8)
    }

    /// Writes 8 bytes of guest memory.
    pub(crate) fn set_qword(&self, gpa: u64, value: u64) {
        self.write(gpa, &value.to_le_bytes());
    }
}

fn stub_code(mode: Mode, error_code: bool) -> Vec<u8> {
    let mut code = vec![0xe6, STUB_PORT as u8];
    match (mode, error_code) {
        (Mode::Real, _) | (_, false) => {}
        (Mode::Long, true) => code.extend([0x48, 0x83, 0xc4, 8]),
        (_, true) => code.extend([0x83, 0xc4, 4]),
    }
    if mode == Mode::Long {
        code.push(0x48);
    }
    code.push(0xcf);
    code
}

/// Address and bytes of the gate of a vector: an interrupt gate to `stub`.
fn gate(mode: Mode, vector: u64, stub: u64) -> (u64, Vec<u8>) {
    let stub16 = (stub as u16).to_le_bytes();
    if mode == Mode::Real {
        return (4 * vector, [stub16[0], stub16[1], 0, 0].to_vec());
    }
    let mut gate = vec![stub16[0], stub16[1], 8, 0, 0, 0x8e, 0, 0];
    let size = if mode == Mode::Long { 16 } else { 8 };
    gate.resize(size, 0);
    (IDT + vector * size as u64, gate)
}

// SPDX-License-Identifier: GPL-2.0

//! userfaultfd (man 2 userfaultfd): the vCPU waits while another thread brings
//! the page.

use crate::area::Area;
use crate::host;
use crate::ktap::{Env, Skip, Test, Verdict};
use crate::load;
use crate::runner::{install_kick, signal, KICK};
use crate::slot::{self, GPA};
use guest::{Program, PAGE_SIZE};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::SeqCst};
use vmm::{Exit, Vm};

pub(crate) const TESTS: &[Test] = &[
    Test::new("uffd: the guest waits for 20 missing pages", missing),
    Test::new(
        "uffd: a missing page with a map, the store is denied",
        missing_with_map,
    ),
    Test::new("uffd: a signal ends the wait with EINTR", interrupted),
];

const PAGE: usize = PAGE_SIZE as usize;
const BYTES: usize = 32 * PAGE;

/// `_IOWR(0xaa, number, size)` of <linux/userfaultfd.h>.
const fn code(number: u64, size: u64) -> u64 {
    3 << 30 | size << 16 | 0xaa << 8 | number
}

const UFFDIO_API: u64 = code(0x3f, 24);
const UFFDIO_REGISTER: u64 = code(0x00, 32);
const UFFDIO_COPY: u64 = code(0x03, 40);
const UFFD_API: u64 = 0xaa;
const REGISTER_MODE_MISSING: u64 = 1;
const EVENT_PAGEFAULT: u8 = 0x12;

/// Missing pages of an area, brought on demand.
struct Pager<'a> {
    file: File,
    area: &'a Area,
}

impl<'a> Pager<'a> {
    fn new(area: &'a Area) -> Result<Self, Skip> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: userfaultfd checks its argument.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd < 0 {
            return Err(Skip(std::io::Error::last_os_error().to_string()));
        }
        // SAFETY: A new descriptor that nobody else owns.
        let file = unsafe { File::from_raw_fd(i32::try_from(fd).unwrap()) };
        let pager = Self { file, area };
        pager.call(UFFDIO_API, &mut [UFFD_API, 0, 0]);
        let range = [area.address(), area.bytes() as u64];
        let mut register = [range[0], range[1], REGISTER_MODE_MISSING, 0];
        pager.call(UFFDIO_REGISTER, &mut register);
        Ok(pager)
    }

    fn call<const N: usize>(&self, code: u64, argument: &mut [u64; N]) {
        // SAFETY: The kernel reads and writes the words of the argument, whose
        // number is the size in `code`.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), code, argument.as_mut_ptr()) };
        let error = std::io::Error::last_os_error();
        assert_eq!(result, 0, "userfaultfd {code:#x}: {error}");
    }

    /// The offset of the next page that somebody waits for.
    fn next(&self, over: impl Fn() -> bool) -> Option<usize> {
        let mut event = [0_u8; 32];
        while !over() {
            match (&self.file).read(&mut event) {
                Ok(32) => {
                    assert_eq!(event[0], EVENT_PAGEFAULT);
                    let address = u64::from_le_bytes(event[16..24].try_into().unwrap());
                    return usize::try_from(address - self.area.address()).ok();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => host::give_way(),
                other => panic!("{other:?}"),
            }
        }
        None
    }

    /// Brings a page that holds `value` in every word.
    fn bring(&self, offset: usize, value: u64) {
        let page = vec![value; PAGE / 8];
        let to = self.area.address() + (offset & !(PAGE - 1)) as u64;
        let from = page.as_ptr().expose_provenance() as u64;
        self.call(UFFDIO_COPY, &mut [to, from, PAGE as u64, 0, 0]);
    }
}

/// Adds up the first words of `pages` pages into RAX and increments each.
fn adder(pages: u32) -> Program {
    use guest::asm::{ecx, qword_ptr, rax, rbx};
    load::program(0, |a| {
        let mut again = a.create_label();
        a.xor(rax, rax)?;
        a.mov(ecx, pages)?;
        a.mov(rbx, GPA)?;
        a.set_label(&mut again)?;
        a.add(rax, qword_ptr(rbx))?;
        a.inc(qword_ptr(rbx))?;
        a.add(rbx, PAGE as i32)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.hlt()?;
        Ok(vec![])
    })
}

fn missing(env: &Env) -> Verdict {
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    let pager = Pager::new(&area)?;
    let mut vcpu = load::boot(&vm, 0, &adder(20));
    let over = AtomicBool::new(false);
    let mut brought = 0;
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let exit = vcpu.run().unwrap();
            over.store(true, SeqCst);
            assert_eq!(exit, Exit::Hlt);
            vcpu.regs().unwrap().rax
        });
        while let Some(offset) = pager.next(|| over.load(SeqCst)) {
            brought += 1;
            pager.bring(offset, 100 + (offset / PAGE) as u64);
        }
        assert_eq!(runner.join().unwrap(), (100..120).sum::<u64>());
    });
    assert_eq!(brought, 20);
    (0..20).for_each(|page| assert_eq!(area.load(page * PAGE), 101 + page as u64));
    Ok(())
}

fn missing_with_map(env: &Env) -> Verdict {
    let vm = env.spp_vm()?;
    let area = slot::add(&vm, BYTES);
    let pager = Pager::new(&area)?;
    vm.set_maps(GPA, &[!1]).unwrap();
    let mut vcpu = load::boot(&vm, 0, &adder(1));
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| vcpu.run().unwrap());
        let offset = pager.next(|| runner.is_finished()).expect("no fault");
        pager.bring(offset, 7);
        assert!(matches!(runner.join().unwrap(), Exit::Spp(exit) if exit.gpa == GPA));
    });
    assert_eq!(area.load(0), 7);
    Ok(())
}

fn interrupted(env: &Env) -> Verdict {
    install_kick();
    let vm = env.vm();
    let area = slot::add(&vm, BYTES);
    let pager = Pager::new(&area)?;
    wait_and_kick(&vm, &pager);
    Ok(())
}

fn wait_and_kick(vm: &Vm, pager: &Pager<'_>) {
    let mut vcpu = load::boot(vm, 0, &adder(1));
    let thread = AtomicI32::new(0);
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            thread.store(host::thread(), SeqCst);
            vcpu.run().unwrap()
        });
        let offset = pager.next(|| runner.is_finished()).expect("no fault");
        signal(thread.load(SeqCst), KICK);
        host::wait_until("the signal ends KVM_RUN", || runner.is_finished());
        assert_eq!(runner.join().unwrap(), Exit::Interrupted);
        pager.bring(offset, 5);
    });
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    assert_eq!(vcpu.regs().unwrap().rax, 5);
}

//! Looks whether a program needs nothing beside itself: in an image from scratch there is nothing else.

/// Says why a program will not run alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It is none.
    #[error("not a 64-bit little-endian ELF program")]
    NotElf,
    /// It is for another machine.
    #[error("for machine {0}, not {1}")]
    Machine(u16, u16),
    /// It asks for a loader.
    #[error("it asks for a dynamic loader")]
    Interpreter,
    /// It asks for a library.
    #[error("it asks for a shared library")]
    Library,
}

/// The number of x86-64 in ELF.
pub const X86_64: u16 = 62;
/// The number of arm64 in ELF.
pub const AARCH64: u16 = 183;

/// Checks that a program is for a machine, and static: no loader (`PT_INTERP`), no library (`DT_NEEDED`).
pub fn check_static(program: &[u8], machine: u16) -> Result<(), ElfError> {
    let bytes = |at: usize, length: usize| program.get(at..at + length).ok_or(ElfError::NotElf);
    let number = |at: usize, length: usize| -> Result<u64, ElfError> {
        Ok(bytes(at, length)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    let place = |at: usize, length: usize| Ok(usize::try_from(number(at, length)?).unwrap_or(usize::MAX / 2));
    if bytes(0, 6)? != b"\x7fELF\x02\x01" {
        return Err(ElfError::NotElf);
    }
    let found = u16::try_from(number(18, 2)?).unwrap_or_default();
    if found != machine {
        return Err(ElfError::Machine(found, machine));
    }
    let (table, size, count) = (place(32, 8)?, place(54, 2)?, place(56, 2)?);
    for header in 0..count {
        let at = table + header * size;
        match number(at, 4)? {
            3 => return Err(ElfError::Interpreter),
            2 => {
                let (start, length) = (place(at + 8, 8)?, place(at + 32, 8)?);
                for entry in (start..start.saturating_add(length)).step_by(16) {
                    match number(entry, 8)? {
                        0 => break,
                        1 => return Err(ElfError::Library),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

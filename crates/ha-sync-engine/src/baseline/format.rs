//! The bytes of a baseline file (docs/baseline.md): numbers, entries and blocks.

use ha_sync_core::baseline::{Agreed, Facts};
use ha_sync_core::entry::{Kind, Time};
use xxhash_rust::xxh3::xxh3_128;

/// Begins every baseline file.
pub(super) const MAGIC: &[u8; 8] = b"hasyncbl";
/// Ends every whole baseline file.
pub(super) const END: &[u8; 8] = b"hasyncok";
/// Counts up when an older program could not read the file.
pub(super) const VERSION: u32 = 1;
/// Offset of the index, directories, entries: 8 bytes each; XXH3-128 of everything before it; [`END`].
pub(super) const TRAILER: u64 = 8 + 8 + 8 + 16 + 8;
/// Bytes of a place in the index: hash of the path, place.
pub(super) const SLOT: usize = 24;

/// Says that bytes are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Names a directory in the index.
pub(super) fn hash(path: &[u8]) -> u128 {
    xxh3_128(path)
}

/// Is where a block lies: its offset above its length in units of 256 bytes, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) u64);

impl Place {
    const UNIT: u64 = 256;

    /// Returns nothing when the file or the block is too large: 1 TiB, 4 GiB.
    pub(super) fn new(offset: u64, length: usize) -> Option<Self> {
        let units = (length as u64).div_ceil(Self::UNIT);
        (offset < 1 << 40 && units < 1 << 24).then_some(Self(offset << 24 | units))
    }

    pub(super) fn offset(self) -> u64 {
        self.0 >> 24
    }

    /// The bytes to read; the block may be a little shorter.
    pub(super) fn length(self) -> usize {
        ((self.0 & 0xff_ffff) * Self::UNIT) as usize
    }
}

pub(super) fn put_number(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u128);
    out.extend_from_slice(bytes);
}

/// Small numbers of either sign become small numbers.
pub(super) fn put_signed(out: &mut Vec<u8>, number: i128) {
    put_number(out, ((number << 1) ^ (number >> 127)) as u128);
}

/// Reads what the functions above wrote; nothing in it is trusted.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u128, Malformed> {
        // Nearly all numbers have 9 bytes at the most, and those fit a register.
        let mut number = 0_u64;
        for (index, byte) in self.0.iter().take(9).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Ok(number.into());
            }
        }
        self.large_number()
    }

    #[cold]
    fn large_number(&mut self) -> Result<u128, Malformed> {
        let mut number = 0_u128;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            if shift == 126 && part > 3 {
                return Err(Malformed);
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    pub(super) fn signed(&mut self) -> Result<i128, Malformed> {
        let number = self.number()?;
        Ok((number >> 1) as i128 ^ -((number & 1) as i128))
    }

    pub(super) fn narrow<T: TryFrom<u128>>(&mut self) -> Result<T, Malformed> {
        T::try_from(self.number()?).map_err(|_| Malformed)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.narrow()?;
        self.take(length)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Malformed> {
        self.take(LENGTH)?.try_into().map_err(|_| Malformed)
    }
}

/// Is an entry of a block; in an update nothing agreed means that the name goes.
pub(super) type Named = (Vec<u8>, Option<Agreed>);

const KIND: u16 = 0b11;
const ABSENT: u16 = 0b11;
const CONTENT: u16 = 1 << 2;
const SAME_MTIME: u16 = 1 << 3;
const SAME_MODE: u16 = 1 << 4;
const SAME_OWNER: u16 = 1 << 5;
const A_ATTRIBUTES: u16 = 1 << 6;
const B_ATTRIBUTES: u16 = 1 << 7;
/// Of A, compared with the entry before.
const LAST_MODE: u16 = 1 << 8;
const LAST_OWNER: u16 = 1 << 9;

/// Is what the next entry is written relative to.
struct Before {
    name: Vec<u8>,
    a: Facts,
    b: Facts,
}

impl Before {
    fn new() -> Self {
        let zero = Facts { mtime: Time(0), ctime: Time(0), inode: 0, mode: 0, uid: 0, gid: 0, attributes: None };
        Self { name: Vec::new(), a: zero.clone(), b: zero }
    }
}

/// Writes a block: its length, the path, the number of entries, and the entries by name; with the sides exchanged when
/// `swapped`.
pub(super) fn write_block<'a>(
    path: &[u8],
    entries: impl ExactSizeIterator<Item = (&'a [u8], Option<&'a Agreed>)>,
    swapped: bool,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(path.len() + 16 + entries.len() * 96);
    put_bytes(&mut body, path);
    put_number(&mut body, entries.len() as u128);
    let mut before = Before::new();
    for (name, agreed) in entries {
        let shared = before.name.iter().zip(name).take_while(|(one, other)| one == other).count();
        put_number(&mut body, shared as u128);
        put_bytes(&mut body, &name[shared..]);
        before.name.truncate(shared);
        before.name.extend_from_slice(&name[shared..]);
        match agreed {
            Some(agreed) => write_agreed(&mut body, agreed, swapped, &mut before),
            None => put_number(&mut body, ABSENT.into()),
        }
    }
    let mut block = Vec::with_capacity(body.len() + 5);
    put_bytes(&mut block, &body);
    block
}

fn write_agreed(out: &mut Vec<u8>, agreed: &Agreed, swapped: bool, before: &mut Before) {
    let Agreed { kind, size, content, a, b } = agreed;
    let (a, b) = if swapped { (b, a) } else { (a, b) };
    let flag = |set: bool, flag: u16| if set { flag } else { 0 };
    let flags = match kind {
        Kind::File | Kind::Special => 0,
        Kind::Directory => 1,
        Kind::Link => 2,
    };
    let same_mode = a.mode == b.mode;
    let same_owner = (a.uid, a.gid) == (b.uid, b.gid);
    let flags = flags
        | flag(content.is_some(), CONTENT)
        | flag(a.mtime == b.mtime, SAME_MTIME)
        | flag(same_mode, SAME_MODE)
        | flag(same_owner, SAME_OWNER)
        | flag(a.attributes.is_some(), A_ATTRIBUTES)
        | flag(b.attributes.is_some(), B_ATTRIBUTES)
        | flag(a.mode == before.a.mode, LAST_MODE)
        | flag((a.uid, a.gid) == (before.a.uid, before.a.gid), LAST_OWNER);
    put_number(out, flags.into());
    put_number(out, (*size).into());
    if let Some(content) = content {
        out.extend_from_slice(content);
    }
    put_signed(out, a.mtime.0.wrapping_sub(before.a.mtime.0));
    if flags & SAME_MTIME == 0 {
        put_signed(out, b.mtime.0.wrapping_sub(a.mtime.0));
    }
    for (now, before) in [(a, &before.a), (b, &before.b)] {
        put_signed(out, now.ctime.0.wrapping_sub(before.ctime.0));
        put_signed(out, (now.inode.wrapping_sub(before.inode) as i64).into());
    }
    let modes = [(a.mode, flags & LAST_MODE == 0), (b.mode, !same_mode)];
    for (mode, written) in modes {
        if written {
            put_number(out, mode.into());
        }
    }
    for (facts, written) in [(a, flags & LAST_OWNER == 0), (b, !same_owner)] {
        if written {
            put_number(out, facts.uid.into());
            put_number(out, facts.gid.into());
        }
    }
    for attributes in [a.attributes, b.attributes].into_iter().flatten() {
        out.extend_from_slice(&attributes.to_le_bytes());
    }
    before.a.clone_from(a);
    before.b.clone_from(b);
}

/// Is a block that is being read.
pub(super) struct Block<'a> {
    /// The directory's path.
    pub(super) path: &'a [u8],
    /// The bytes of the whole block.
    pub(super) length: usize,
    count: usize,
    reader: Reader<'a>,
}

impl<'a> Block<'a> {
    /// Reads the beginning of a block; `bytes` may go on behind its end.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let body = reader.bytes()?;
        let length = bytes.len() - reader.0.len();
        let mut reader = Reader(body);
        let path = reader.bytes()?;
        let count = reader.narrow()?;
        // An entry has 3 bytes at the least.
        if count > reader.0.len() {
            return Err(Malformed);
        }
        Ok(Self { path, length, count, reader })
    }

    /// Returns the number of entries.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Reads the entries, which must be in order and end with the block; with the sides exchanged when `swapped`.
    pub(super) fn entries(mut self, swapped: bool) -> Result<Vec<Named>, Malformed> {
        let mut entries: Vec<Named> = Vec::with_capacity(self.count);
        let mut before = Before::new();
        for _ in 0..self.count {
            let shared: usize = self.reader.narrow()?;
            let rest = self.reader.bytes()?;
            let last = entries.last().map(|(name, _)| &name[..]);
            let kept = last.unwrap_or_default().get(..shared).ok_or(Malformed)?;
            let mut name = Vec::with_capacity(shared + rest.len());
            name.extend_from_slice(kept);
            name.extend_from_slice(rest);
            if last.is_some_and(|last| *last >= *name) {
                return Err(Malformed);
            }
            let agreed = read_agreed(&mut self.reader, &mut before)?;
            entries.push((name, if swapped { agreed.map(Agreed::swapped) } else { agreed }));
        }
        if self.reader.0.is_empty() { Ok(entries) } else { Err(Malformed) }
    }
}

fn read_agreed(reader: &mut Reader<'_>, before: &mut Before) -> Result<Option<Agreed>, Malformed> {
    let flags: u16 = reader.narrow()?;
    let has = |flag| flags & flag != 0;
    let kind = match flags & KIND {
        0 => Kind::File,
        1 => Kind::Directory,
        2 => Kind::Link,
        _ => return Ok(None),
    };
    let size = reader.narrow()?;
    let content = if has(CONTENT) { Some(reader.array()?) } else { None };
    let (a, b) = (&mut before.a, &mut before.b);
    a.mtime = Time(a.mtime.0.wrapping_add(reader.signed()?));
    b.mtime = if has(SAME_MTIME) { a.mtime } else { Time(a.mtime.0.wrapping_add(reader.signed()?)) };
    for facts in [&mut *a, &mut *b] {
        facts.ctime = Time(facts.ctime.0.wrapping_add(reader.signed()?));
        facts.inode = facts.inode.wrapping_add(reader.signed()? as u64);
    }
    if !has(LAST_MODE) {
        a.mode = reader.narrow()?;
    }
    b.mode = if has(SAME_MODE) { a.mode } else { reader.narrow()? };
    if !has(LAST_OWNER) {
        (a.uid, a.gid) = (reader.narrow()?, reader.narrow()?);
    }
    (b.uid, b.gid) = if has(SAME_OWNER) { (a.uid, a.gid) } else { (reader.narrow()?, reader.narrow()?) };
    a.attributes = if has(A_ATTRIBUTES) { Some(u64::from_le_bytes(reader.array()?)) } else { None };
    b.attributes = if has(B_ATTRIBUTES) { Some(u64::from_le_bytes(reader.array()?)) } else { None };
    Ok(Some(Agreed { kind, size, content, a: a.clone(), b: b.clone() }))
}

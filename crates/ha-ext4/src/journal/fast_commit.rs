//! Fast commits: changes that stand behind the transactions, in a form of their own. They are not laid over, but it is
//! seen when there are any.

use super::{INCOMPAT_FAST_COMMIT, Log};
use crate::bytes::{le16, le32, part};
use crate::checksum::crc32c;

const TAIL: u16 = 8;
const HEAD: u16 = 9;
const TAG: usize = 4;

/// Tells whether a whole fast commit follows the last transaction, which has the number before `transaction`.
pub(super) fn waits(log: &mut Log<'_>, transaction: u32) -> bool {
    let head = log.head;
    if head.incompat & INCOMPAT_FAST_COMMIT == 0 || head.last == head.length {
        return false;
    }
    let mut sum = 0;
    let mut is_first = true;
    for block in head.last + 1..head.length {
        let Ok(bytes) = log.read(block) else { return false };
        let mut at = 0;
        while let Some(tag) = part(&bytes, at, TAG) {
            let (kind, length) = (le16(tag, 0), usize::from(le16(tag, 2)));
            let Some(value) = part(&bytes, at + TAG, length) else { break };
            if is_first && (kind != HEAD || le32(value, 4) != transaction) {
                return false;
            }
            is_first = false;
            if kind == TAIL {
                sum = crc32c(crc32c(sum, tag), value.get(..4).unwrap_or_default());
                return le32(value, 0) == transaction && le32(value, 4) == sum;
            }
            if kind == 0 || kind > HEAD {
                return false;
            }
            sum = crc32c(crc32c(sum, tag), value);
            at += TAG + length;
        }
    }
    false
}

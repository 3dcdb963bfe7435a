//! Names of conflict copies (sync.md §3, §11).

use jiff::Timestamp;

use crate::baseline::Side;
use crate::entry::Time;

/// The longest name that Linux file systems keep, bytes.
const LONGEST: usize = 255;

/// Returns the name under which the loser of a conflict is kept: `name (conflict 2026-04-13 15.23.57 from b).ext`.
///
/// The time is the loser's mtime in UTC. The last extension stays (a leading dot begins none), and the stem is
/// shortened to fit, between characters where it is UTF-8. `number` counts from 1; from 2 on it is a part of the name,
/// for when the earlier ones are taken.
pub fn copy_name(name: &[u8], loser: Side, mtime: Time, number: u32) -> Vec<u8> {
    let (seconds, _) = mtime.parts();
    let limits = (Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    let time = Timestamp::from_second(seconds.clamp(limits.0, limits.1)).unwrap_or(Timestamp::UNIX_EPOCH);
    let count = if number > 1 { format!(" {number}") } else { String::new() };
    let mark = format!(" (conflict {} from {}{count})", time.strftime("%Y-%m-%d %H.%M.%S"), loser.as_str());
    let (stem, extension) = split_extension(name);
    // An extension that leaves no room is none.
    let (stem, extension) = if mark.len() + extension.len() < LONGEST { (stem, extension) } else { (name, &b""[..]) };
    let mut copy = shorten(stem, LONGEST - mark.len() - extension.len()).to_vec();
    copy.extend_from_slice(mark.as_bytes());
    copy.extend_from_slice(extension);
    copy
}

/// Splits off the last extension, with its dot.
fn split_extension(name: &[u8]) -> (&[u8], &[u8]) {
    let leading = name.iter().take_while(|byte| **byte == b'.').count();
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > leading => name.split_at(dot),
        _ => (name, b""),
    }
}

/// Cuts to `length` bytes, or a few fewer so that no character is cut.
fn shorten(stem: &[u8], length: usize) -> &[u8] {
    if stem.len() <= length {
        return stem;
    }
    match std::str::from_utf8(stem) {
        Ok(text) => &stem[..text.floor_char_boundary(length)],
        Err(_) => &stem[..length],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn copied(name: &str, number: u32) -> String {
        let time = "2026-04-13T15:23:57.9Z".parse::<Timestamp>().unwrap();
        String::from_utf8(copy_name(name.as_bytes(), Side::B, Time(time.as_nanosecond()), number)).unwrap()
    }

    #[test]
    fn the_mark_goes_before_the_last_extension() {
        for (name, expected) in [
            ("name.ext", "name (conflict 2026-04-13 15.23.57 from b).ext"),
            ("name", "name (conflict 2026-04-13 15.23.57 from b)"),
            ("a.tar.gz", "a.tar (conflict 2026-04-13 15.23.57 from b).gz"),
            (".bashrc", ".bashrc (conflict 2026-04-13 15.23.57 from b)"),
            ("..a", "..a (conflict 2026-04-13 15.23.57 from b)"),
            (".a.b", ".a (conflict 2026-04-13 15.23.57 from b).b"),
            ("a.", "a (conflict 2026-04-13 15.23.57 from b)."),
            ("...", "... (conflict 2026-04-13 15.23.57 from b)"),
            ("ä ö.jpg", "ä ö (conflict 2026-04-13 15.23.57 from b).jpg"),
        ] {
            assert_eq!(copied(name, 1), expected);
        }
        assert_eq!(copied("x.y", 2), "x (conflict 2026-04-13 15.23.57 from b 2).y");
        assert_eq!(copied("x.y", 77), "x (conflict 2026-04-13 15.23.57 from b 77).y");
        let old = copy_name(b"x", Side::A, Time(-1), 1);
        assert_eq!(old, b"x (conflict 1969-12-31 23.59.59 from a)");
    }

    #[test]
    fn a_long_stem_is_cut_between_characters() {
        let copy = copied(&format!("{}.jpg", "ä".repeat(125)), 1);
        assert!(copy.len() == 255 || copy.len() == 254, "{}", copy.len());
        assert!(copy.starts_with("ää") && copy.ends_with("ä (conflict 2026-04-13 15.23.57 from b).jpg"));
        let bytes = [[0xff; 251].as_slice(), b".jpg"].concat();
        assert_eq!(copy_name(&bytes, Side::A, Time(0), 1).len(), 255);
        // An extension that is most of the name.
        let copy = copied(&format!("a.{}", "b".repeat(250)), 1);
        assert!(copy.starts_with("a.b") && copy.ends_with("b (conflict 2026-04-13 15.23.57 from b)"), "{copy}");
    }

    proptest! {
        #[test]
        fn a_copy_has_a_name_of_its_own_that_fits(
            name in proptest::collection::vec((1..=255_u8).prop_filter("no slash", |byte| *byte != b'/'), 1..=255),
            mtime in any::<i128>(),
            number in 1..2000_u32,
        ) {
            let copy = copy_name(&name, Side::A, Time(mtime), number);
            prop_assert!(copy.len() <= 255 && copy != name);
            prop_assert!(!copy.contains(&b'/') && !copy.contains(&0));
            prop_assert!(copy != copy_name(&name, Side::B, Time(mtime), number));
            prop_assert!(copy != copy_name(&name, Side::A, Time(mtime), number + 1));
        }
    }
}

//! Numbers, times and names as a person reads them.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

/// Writes a number with a comma between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a size in powers of 1024, three digits.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Writes how long something took, its two greatest units.
pub(crate) fn duration(duration: SignedDuration) -> String {
    let milliseconds = duration.as_millis().max(0);
    if milliseconds < 1000 {
        return format!("{milliseconds} ms");
    }
    if milliseconds < 60_000 {
        let tenths = (milliseconds + 50) / 100;
        return if tenths % 10 == 0 || tenths >= 600 {
            format!("{} s", tenths / 10)
        } else {
            format!("{}.{} s", tenths / 10, tenths % 10)
        };
    }
    let seconds = milliseconds / 1000;
    let (greater, lesser, names) = match seconds {
        ..3600 => (seconds / 60, seconds % 60, ("min", "s")),
        3600..86_400 => (seconds / 3600, seconds % 3600 / 60, ("h", "min")),
        _ => (seconds / 86_400, seconds % 86_400 / 3600, ("d", "h")),
    };
    match lesser {
        0 => format!("{greater} {}", names.0),
        _ => format!("{greater} {} {lesser} {}", names.0, names.1),
    }
}

/// Writes a time span roughly, as one speaks of it: its greatest unit.
pub(crate) fn roughly(span: SignedDuration) -> String {
    let seconds = span.abs().as_secs();
    let (number, unit) = match seconds {
        ..60 => (seconds, "s"),
        60..5400 => ((seconds + 30) / 60, "min"),
        5400..129_600 => ((seconds + 1800) / 3600, "h"),
        _ => ((seconds + 43_200) / 86_400, "d"),
    };
    format!("{number} {unit}")
}

/// Writes a past time as one speaks of it.
pub(crate) fn ago(time: Timestamp, now: Timestamp) -> String {
    let span = now.duration_since(time);
    if span < SignedDuration::from_secs(5) { "just now".to_owned() } else { format!("{} ago", roughly(span)) }
}

/// Writes a time to the second, in UTC.
pub(crate) fn second(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Writes a time as RFC 3339 with milliseconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// Writes a name so that it cannot break a line, move the cursor or turn the direction of reading: control characters
/// become `\xNN`, format characters of bidirectional text and of zero width `\u{NNNN}`.
pub(crate) fn shown(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for character in name.chars() {
        if character.is_control() {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(text, "\\x{byte:02x}");
            }
        } else if is_invisible(character) {
            let _ = write!(text, "\\u{{{:04x}}}", u32::from(character));
        } else {
            text.push(character);
        }
    }
    text
}

/// Writes a message of several lines, each as [`shown`] does.
pub(crate) fn shown_lines(message: &str) -> String {
    message.lines().map(shown).collect::<Vec<_>>().join("\n")
}

/// U+200C and U+200D are none of these: Persian and Indian words and some emoji are not written without them.
fn is_invisible(character: char) -> bool {
    matches!(u32::from(character),
        0x00ad | 0x061c | 0x180e | 0x200b | 0x200e | 0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb)
}

/// Writes a text for the query of a URL.
pub(crate) fn query(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!((grouped(0), grouped(999), grouped(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_230, "9.99 KiB"),
            (1_048_575, "1.00 MiB"),
            (123_456_789, "118 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn times() {
        for (milliseconds, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (1249, "1.2 s"),
            (59_990, "60 s"),
            (61_000, "1 min 1 s"),
            (3_600_000, "1 h"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(SignedDuration::from_millis(milliseconds)), text);
        }
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for (seconds, text) in
            [(0, "just now"), (42, "42 s ago"), (90, "2 min ago"), (7200, "2 h ago"), (864_000, "10 d ago")]
        {
            assert_eq!(ago(now - SignedDuration::from_secs(seconds), now), text);
        }
    }

    #[test]
    fn names_show_what_they_hide() {
        assert_eq!(shown("a\u{202e}gpj.exe\n\u{7f}"), "a\\u{202e}gpj.exe\\x0a\\x7f");
        assert_eq!(shown("\u{200b}\u{200e}\u{200f}"), "\\u{200b}\\u{200e}\\u{200f}");
        for name in ["می\u{200c}خواهم.txt", "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}.jpg"] {
            assert_eq!(shown(name), name);
        }
        assert_eq!(shown("Übung \u{1f600}"), "Übung \u{1f600}");
        assert_eq!(query("a b&c=<\n"), "a+b%26c%3D%3C%0A");
    }
}

//! The style, the script and the icon, built in. Their addresses have a mark of their content, so that a browser
//! keeps them as long as they are the same.

use std::fmt;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::parameters::Segment;
use crate::refusal::Refusal;

/// Is a file that pages refer to.
#[derive(Debug)]
pub(crate) struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
    mark: u64,
}

impl Asset {
    const fn new(name: &'static str, kind: &'static str, content: &'static str) -> Self {
        Self { name, kind, content, mark: mark(content.as_bytes()) }
    }
}

/// Writes the address.
impl fmt::Display for Asset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/assets/{:016x}/{}", self.mark, self.name)
    }
}

/// Says how pages look.
pub(crate) static STYLE: Asset =
    Asset::new("style.css", "text/css; charset=utf-8", include_str!("../assets/style.css"));
/// Refreshes pages.
pub(crate) static SCRIPT: Asset =
    Asset::new("script.js", "text/javascript; charset=utf-8", include_str!("../assets/script.js"));
/// Is the picture in a browser's tab.
pub(crate) static ICON: Asset = Asset::new("icon.svg", "image/svg+xml", include_str!("../assets/icon.svg"));

/// Makes a mark of a content: FNV-1a, which needs no secret here.
const fn mark(content: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < content.len() {
        hash = (hash ^ content[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Answers `/assets/{mark}/{name}`; an old mark gets what there is now, and is not to be kept.
pub(crate) async fn serve(Segment((mark, name)): Segment<(String, String)>) -> Result<Response, Refusal> {
    let found = [&STYLE, &SCRIPT, &ICON].into_iter().find(|asset| asset.name == name);
    let asset = found.ok_or_else(|| Refusal::NotFound("there is no such file".to_owned()))?;
    let kept = if mark == format!("{:016x}", asset.mark) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static(kept)),
    ];
    Ok((headers, asset.content).into_response())
}

//! Small charts as SVG: a bar per run. Everything in them is a number or a word of ours, except what is escaped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use askama::filters::{Html, escape};
use ha_audit::store::IterationRow;
use ha_sync_core::record::Status;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 64.0;
/// Bars that fit; fewer are as wide and stand at the right.
const PLACES: usize = crate::board::HISTORY as usize;

/// Is a chart of one value over the runs of a direction.
#[derive(Debug)]
pub(crate) struct Chart {
    /// What it shows.
    pub(crate) title: &'static str,
    /// The newest value, for people.
    pub(crate) latest: String,
    /// The greatest value, for people.
    pub(crate) most: String,
    /// The SVG element.
    pub(crate) svg: String,
}

/// Draws a value over runs, which come newest first.
pub(crate) fn bars(
    title: &'static str,
    runs: &[IterationRow],
    value: impl Fn(&IterationRow) -> Option<u64>,
    written: impl Fn(u64) -> String,
    bad: bool,
) -> Chart {
    let shown = &runs[..runs.len().min(PLACES)];
    let most = shown.iter().filter_map(&value).max().unwrap_or(0);
    let latest = shown.iter().find_map(&value).unwrap_or(0);
    let summary =
        format!("{title} of the last {} runs: latest {}, most {}", shown.len(), written(latest), written(most));
    let step = WIDTH / PLACES as f64;
    let mut svg = format!(
        r#"<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{}">"#,
        escaped(&summary)
    );
    let _ = write!(svg, r#"<path class="base" d="M0 {0}H{WIDTH}"/>"#, HEIGHT - 0.5);
    let mut paths = Paths::default();
    for (index, run) in shown.iter().enumerate() {
        let Some(number) = value(run) else { continue };
        // A value above nothing is seen, however small.
        let height = match (number, most) {
            (0, _) | (_, 0) => 1.0,
            _ => (number as f64 / most as f64 * (HEIGHT - 4.0)).max(2.5),
        };
        let class = match run.status {
            _ if bad && number > 0 => "bad",
            Status::Failed => "bad",
            Status::PartialFailure => "warn",
            _ if number == 0 => "none",
            _ => "bar",
        };
        paths.bar(class, WIDTH - step * (index as f64 + 0.5), HEIGHT, height);
    }
    paths.write(&mut svg);
    svg.push_str("</svg>");
    Chart { title, latest: written(latest), most: written(most), svg }
}

/// Is the bars of a picture: a path for each class, of strokes from the ground up. That is a tenth of an element each.
#[derive(Debug, Default)]
struct Paths(BTreeMap<&'static str, String>);

impl Paths {
    fn bar(&mut self, class: &'static str, x: f64, ground: f64, height: f64) {
        let _ = write!(self.0.entry(class).or_default(), "M{x} {ground}v-{height:.1}");
    }

    fn write(&self, svg: &mut String) {
        for (class, path) in &self.0 {
            let _ = write!(svg, r#"<path class="{class}" d="{path}"/>"#);
        }
    }
}

/// Draws how the last runs ended, newest at the right: a tick each, taller where something is wrong.
pub(crate) fn strip(runs: &[IterationRow]) -> String {
    const TICKS: usize = 30;
    let shown = &runs[..runs.len().min(TICKS)];
    let count = |wanted: Status| shown.iter().filter(|run| run.status == wanted).count();
    let (good, partial, failed) = (count(Status::Success), count(Status::PartialFailure), count(Status::Failed));
    let mut label = format!("last {} runs: {good} successful", shown.len());
    for (number, word) in [(partial, "partial"), (failed, "failed")] {
        if number > 0 {
            let _ = write!(label, ", {number} {word}");
        }
    }
    let mut svg = format!(
        r#"<svg class="strip" viewBox="0 0 {} 18" preserveAspectRatio="none" role="img" aria-label="{label}">"#,
        TICKS * 8
    );
    let mut paths = Paths::default();
    for place in 0..TICKS {
        let (class, height) = match shown.get(place).map(|run| run.status) {
            None => ("none", 4.0),
            Some(Status::Success) => ("good", 10.0),
            Some(Status::Running) => ("run", 10.0),
            Some(Status::PartialFailure) => ("warn", 14.0),
            Some(Status::Failed) => ("bad", 18.0),
        };
        paths.bar(class, ((TICKS - 1 - place) * 8 + 4) as f64, 18.0, height);
    }
    paths.write(&mut svg);
    svg.push_str("</svg>");
    svg
}

fn escaped(text: &str) -> String {
    escape(text, Html).map_or_else(|_| String::new(), |text| text.to_string())
}

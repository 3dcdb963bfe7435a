//! The pages: what they show, and that a name in them does no harm.

use ha_dashboard::lock::{Immediate, LockState};
use ha_sync_core::record::{OperationKind, Status};
use jiff::{SignedDuration, Timestamp};

use crate::ground::{Dashboard, Ground, Run, on_both};

on_both! {
    a_failed_run_is_told_on_every_page,
    operations_are_paged_and_filtered,
    where_is_my_file,
    a_name_is_looked_for_as_it_is_typed,
    a_root_is_known_from_a_dry_run,
    a_held_lock_is_on_the_pages,
    names_do_no_harm,
    what_is_not_there_is_404_and_what_is_not_understood_400,
    pages_are_light,
}

const HOSTILE: &str = "<script>alert(1)</script>\" onload=\"x&amp;'`${7*7}";

fn a_failed_run_is_told_on_every_page(place: &Ground) {
    place.record(&Run::new("media", 20));
    let message = "halted: the destination is emptied: /mnt/b\nto let it through: --allow-empty-root";
    let run = place.record(&Run { status: Status::Failed, error: Some(message), ..Run::new("media", 5) });
    place.record(&Run::new("photos", 4).failing(OperationKind::Create, "cat.jpg", "no space", Some("type conflict")));
    let dashboard = place.dashboard();
    let page = dashboard.get("/").body;
    assert!(page.contains("<h1>2 of 2 pairs need a look</h1>"), "{page}");
    assert!(page.contains("1 open conflict") && page.contains(&format!("href=\"/runs/{run}\"")));
    for path in ["/", "/pairs/media", &format!("/runs/{run}")] {
        let page = dashboard.get(path).body;
        assert!(page.contains("halted: the destination is emptied: /mnt/b\nto let it"), "{path}: {page}");
        assert!(page.contains("class=\"badge bad\">failed"), "{path}");
    }
    let photos = dashboard.get("/pairs/photos").body;
    assert!(photos.contains("Open conflicts") && photos.contains("/search?q=cat.jpg"), "{photos}");
}

fn operations_are_paged_and_filtered(place: &Ground) {
    let mut run = Run::new("media", 5);
    for number in 0..120 {
        run = run.with(OperationKind::Create, &format!("file {number:03}"));
    }
    let id = place.record(&run.failing(OperationKind::Update, "broken", "permission denied", None));
    let dashboard = place.dashboard();
    let page = dashboard.get(&format!("/runs/{id}")).body;
    assert!(page.contains("file 000") && page.contains("file 049") && !page.contains("file 050"));
    let next = page.split("href=\"?cursor=").nth(1).unwrap().split('"').next().unwrap();
    let second = dashboard.get(&format!("/runs/{id}?cursor={next}")).body;
    assert!(second.contains("file 050") && !second.contains("file 049"));
    let failed = dashboard.get(&format!("/runs/{id}?status=fail&operation=&path=")).body;
    assert!(failed.contains("broken") && failed.contains("permission denied") && !failed.contains("file 000"));
    assert!(failed.contains("<option value=\"fail\" selected>"));
    assert!(failed.contains(&format!("/runs/{id}/operations.csv?status=fail\"")));
}

fn where_is_my_file(place: &Ground) {
    place.record(&Run::new("media", 30).with(OperationKind::Create, "photos/2026/cat.jpg"));
    let run = place.record(&Run::new("media", 20).with(OperationKind::Delete, "photos/2026/cat.jpg"));
    let dashboard = place.dashboard();
    let command = format!("ha-sync restore --root /mnt/b/media --run {run} photos/2026/cat.jpg");
    for query in ["photos/2026/cat.jpg", "%2Fmnt%2Fa%2Fmedia%2Fphotos%2F2026%2Fcat.jpg", "./photos/2026/cat.jpg"] {
        let page = dashboard.get(&format!("/search?q={query}")).body;
        assert!(page.contains(&command) && page.contains(">deleted</span>"), "{query}: {page}");
    }
    for query in ["photos", "photos/20", "CAT.jpg", "2026/cat"] {
        let page = dashboard.get(&format!("/search?q={query}")).body;
        assert!(page.contains("href=\"/search?q=photos%2F2026%2Fcat.jpg\""), "{query}: {page}");
    }
    assert!(dashboard.get("/search?q=dog").body.contains("No run on record"));
}

fn a_name_is_looked_for_as_it_is_typed(place: &Ground) {
    let names = [" leading", "trailing ", " ", ".", "a", " a", "dir/ name ", "می\u{200c}خواهم.txt"];
    let mut run = Run::new("media", 5);
    for name in names {
        run = run.with(OperationKind::Delete, name);
    }
    let id = place.record(&run);
    let dashboard = place.dashboard();
    let page = dashboard.get(&format!("/runs/{id}")).body;
    for name in names {
        let encoded: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let link = format!("href=\"/search?q={encoded}\"");
        assert!(page.contains(&link), "the run's page has {link}: {page}");
        let found = dashboard.get(&format!("/search?q={encoded}")).body;
        assert!(found.contains(&format!("<bdi>{name}</bdi></h2>")), "{name:?}: {found}");
        assert!(found.contains(&format!("value=\"{name}\"")), "{name:?} can be sent again: {found}");
    }
    // what is not there as it was typed is what was meant
    for (typed, name) in [("++a+", "a"), ("./a", "a"), ("%2Fa%2F", "a"), ("+trailing+", "trailing ")] {
        let found = dashboard.get(&format!("/search?q={typed}")).body;
        let there = found.contains(&format!("<bdi>{name}</bdi></h2>"));
        let below = found.contains(&format!("<bdi>{name}</bdi></a></li>"));
        assert!(there || below, "{typed}: {found}");
    }
    // the form has what was typed, not what hides in it written out
    let found = dashboard.get("/search?q=x%E2%80%8Fy%22%3E").body;
    assert!(found.contains("value=\"x\u{200f}y&#34;&#62;\""), "{found}");
}

fn a_root_is_known_from_a_dry_run(place: &Ground) {
    place.record(&Run { dry_run: true, ..Run::new("media", 5).with(OperationKind::Create, "photos/cat.jpg") });
    let page = place.dashboard().get("/search?q=%2Fmnt%2Fb%2Fmedia%2Fphotos%2Fcat.jpg").body;
    assert!(page.contains("<bdi>photos/cat.jpg</bdi></h2>") && page.contains("dry run"), "{page}");
}

fn a_held_lock_is_on_the_pages(place: &Ground) {
    place.record(&Run::new("media", 5));
    place.record(&Run::new("photos", 5));
    let since = Timestamp::now() - SignedDuration::from_mins(42);
    let locks = Immediate(move |pair: &str| match pair {
        "media" => LockState::Held { holder: "pod <b>x</b>/1".to_owned(), since: Some(since) },
        _ => LockState::Free,
    });
    let dashboard = Dashboard::start(place.dsn(), Box::new(locks), None, None);
    for path in ["/", "/pairs/media"] {
        let page = dashboard.get(path).body;
        let words = "<p class=\"lock small held\">locked by pod &#60;b&#62;x&#60;/b&#62;/1, 42 min ago</p>";
        assert!(page.contains(words), "{path}: {page}");
    }
    assert!(dashboard.get("/pairs/photos").body.contains("<p class=\"lock small\">lock free</p>"));
    let lock = &dashboard.json("/api/pairs/media")["lock"];
    assert_eq!((lock["state"].as_str(), lock["holder"].as_str()), (Some("held"), Some("pod <b>x</b>/1")));
}

fn names_do_no_harm(place: &Ground) {
    let rtl = "invoice\u{202e}fdp.exe\u{1b}[2J\n";
    let id = place.record(
        &Run { error: Some("failed: <img src=x onerror=alert(1)>"), ..Run::new("media", 5) }
            .with(OperationKind::Create, HOSTILE)
            .failing(OperationKind::Update, rtl, "<b>denied</b>", Some("type conflict <i>")),
    );
    let dashboard = place.dashboard();
    let encoded: String = form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    for path in [
        "/",
        "/pairs/media",
        &format!("/runs/{id}"),
        &format!("/runs/{id}?path={encoded}"),
        &format!("/search?q={encoded}"),
        "/search?q=script",
        "/search?q=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E",
        &format!("/runs/{encoded}"),
        &format!("/pairs/{}", encoded.replace('+', "%20")),
    ] {
        let page = dashboard.get(path).body;
        for harmful in ["<script>alert", "<img", "<b>denied", "<i>", "\u{202e}", "\u{1b}", "\" onload=\""] {
            assert!(!page.contains(harmful), "{path} has {harmful:?}: {page}");
        }
    }
    let page = dashboard.get(&format!("/runs/{id}")).body;
    assert!(page.contains("&#60;script&#62;alert(1)"), "{page}");
    assert!(page.contains("invoice\\u{202e}fdp.exe\\x1b[2J\\x0a"), "what hides is written out: {page}");
    let api = dashboard.get(&format!("/api/operations?iteration_id={id}"));
    assert!(api.body.contains("<script>") && api.header("x-content-type-options") == "nosniff");
}

fn what_is_not_there_is_404_and_what_is_not_understood_400(place: &Ground) {
    let id = place.record(&Run::new("media", 5));
    let dashboard = place.dashboard();
    for path in [
        "/nothing",
        "/pairs/nobody",
        "/runs/x",
        "/runs/99999999",
        "/runs/99999999999999999999",
        "/runs/20000101T000000Z-00000000",
        "/assets/0/none.css",
        "/api/nothing",
        "/api/pairs/nobody",
        "/api/iterations/7777",
    ] {
        assert_eq!(dashboard.get(path).status, 404, "{path}");
    }
    for path in [
        "/?x=1",
        "/pairs/media?cursor=x",
        "/pairs/media?dry_run=yes",
        &format!("/runs/{id}?status=ok"),
        &format!("/runs/{id}?operation=move"),
        &format!("/runs/{id}?cursor=-1"),
        "/search?q=a&q=b",
        "/search?q=%00",
        "/search?q=a&before=x",
        "/api/iterations?limit=0",
        "/api/operations?iteration_id=x",
    ] {
        let answer = dashboard.get(path);
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body.contains("parameter"), "{path}: {}", answer.body);
    }
    // what is no text at all is taken for what is left of it
    assert_eq!(dashboard.get("/search?q=%ff%fe").status, 200);
}

fn pages_are_light(place: &Ground) {
    for pair in ["ai", "games", "infra", "media", "owncloud", "photos"] {
        for direction in ["a-to-b", "b-to-a"] {
            for ago in (0..8).rev() {
                let run = Run { direction, ..Run::new(pair, ago * 15) };
                place.record(&run.with(OperationKind::Create, &format!("{direction} {ago}")));
            }
        }
    }
    let dashboard = place.dashboard();
    for path in ["/", "/pairs/media", "/search?q=a-to-b"] {
        let page = dashboard.get(path).body;
        let mut weight = page.len();
        for asset in page.split("\"/assets/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let answer = dashboard.get(&format!("/assets/{asset}"));
            assert_eq!(answer.header("cache-control"), "public, max-age=31536000, immutable");
            weight += answer.body.len();
        }
        assert!(weight < 60 * 1024, "{path} weighs {weight} bytes");
        for foreign in ["http://", "https://", "style=\"", " on", "javascript:", "<style"] {
            let found = page.split('<').find(|tag| tag.split('>').next().is_some_and(|tag| tag.contains(foreign)));
            assert!(found.is_none() || foreign == " on" && !found.unwrap().contains("=\""), "{path}: {found:?}");
        }
    }
}

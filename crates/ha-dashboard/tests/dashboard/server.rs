//! Connections: those that say nothing, answers under way at the stop, an address that is taken.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ha_dashboard::lock::{Answer, LockState, LockStatus, NoLocks};
use ha_dashboard::server::Stop;
use ha_dashboard::{ServeError, Settings};

use crate::ground::{Dashboard, Ground, Run};

/// Takes its time.
struct Slow(Duration);

impl LockStatus for Slow {
    fn states<'a>(&'a self, pairs: &'a [String]) -> Answer<'a> {
        let begun = Instant::now();
        Box::pin(async move {
            while begun.elapsed() < self.0 {
                let mut yielded = false;
                // the runtime is the dashboard's: there is nothing here to sleep by
                std::future::poll_fn(|context| {
                    context.waker().wake_by_ref();
                    if std::mem::replace(&mut yielded, true) {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                })
                .await;
            }
            vec![LockState::Free; pairs.len()]
        })
    }
}

#[test]
fn an_answer_under_way_at_the_stop_is_finished() {
    let place = Ground::sqlite();
    place.record(&Run::new("media", 5));
    let mut dashboard = Dashboard::start(place.dsn(), Box::new(Slow(Duration::from_secs(2))), None, None);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let page = scope.spawn(|| dashboard.get("/"));
        std::thread::sleep(Duration::from_millis(500));
        dashboard.begin_to_stop();
        std::thread::sleep(Duration::from_millis(200));
        assert!(TcpStream::connect(dashboard.address).is_err(), "nobody else is let in");
        let page = page.join().unwrap();
        assert_eq!(page.status, 200);
        assert!(page.body.contains(">media</a>") && page.body.contains("</html>"), "{}", page.body);
    });
    dashboard.stop();
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(8), "{took:?}");
}

/// More than there is room for, all of which say nothing, or half a header.
#[test]
fn a_crowd_that_says_nothing_gives_way() {
    let place = Ground::sqlite();
    place.record(&Run::new("media", 5));
    let dashboard = place.dashboard();
    let mut crowd: Vec<TcpStream> = (0..260).map(|_| TcpStream::connect(dashboard.address).unwrap()).collect();
    for stream in crowd.iter_mut().step_by(2) {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    }
    let begun = Instant::now();
    assert_eq!(dashboard.get("/healthz").status, 200);
    let waited = begun.elapsed();
    assert!(waited > Duration::from_secs(5), "there is a bound: {waited:?}");
    assert!(waited < Duration::from_secs(25), "{waited:?}");
    let mut first = &crowd[0];
    first.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"), "{rest:?}");
}

#[test]
fn an_address_that_is_taken() {
    let place = Ground::sqlite();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap();
    let settings = Settings {
        listen,
        place: place.place(),
        other_place: None,
        locks: Box::new(NoLocks),
        credentials: None,
        say: Box::new(|event| panic!("{event:?}")),
    };
    match ha_dashboard::serve(settings, &Stop::default()) {
        Err(ServeError::Listen { address, source }) => {
            assert_eq!((address, source.kind()), (listen, std::io::ErrorKind::AddrInUse));
        }
        other => panic!("{other:?}"),
    }
}

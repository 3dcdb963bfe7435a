//! The server: routes, and what holds for every request: headers, login, time limit, the form of refusals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::auth::Credentials;
use crate::board::Board;
use crate::lock::LockStatus;
use crate::places::{Place, Places};
use crate::refusal::Refusal;
use crate::{api, assets, download, metrics, pages};

/// How long the database may take to connect, and to answer one question.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a request may take until its answer begins.
const LONGEST: Duration = Duration::from_secs(20);
/// How long a client may take for the header of a request, and may keep an idle connection.
const HEADERS: Duration = Duration::from_secs(10);
/// Connections at once.
const CONNECTIONS: usize = 256;
/// How long to wait after a connection that could not be accepted.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// How long answers that are under way may take to end after the stop.
const GRACE: Duration = Duration::from_secs(10);

/// Says what is served, and where.
pub struct Settings {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the records are.
    pub place: Place,
    /// Where they are when there are none; looked at again until some are seen.
    pub other_place: Option<Place>,
    /// Who knows the holders of locks.
    pub locks: Box<dyn LockStatus>,
    /// Who may look; absent: everybody.
    pub credentials: Option<Credentials>,
    /// Hears what happens.
    pub say: Box<dyn Fn(Event<'_>) + Send + Sync>,
}

/// Is what the operator of the server is told.
#[derive(Debug)]
pub enum Event<'a> {
    /// It serves.
    Listening {
        /// Where.
        address: SocketAddr,
    },
    /// The database cannot be read; pages show the last state.
    DatabaseAway {
        /// Why.
        why: &'a str,
    },
    /// The database can be read again.
    DatabaseBack,
    /// The logs that wait cannot be counted.
    LogsUnknown {
        /// Why.
        why: &'a str,
    },
    /// They can be counted again.
    LogsKnown,
}

/// Says why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("failed to listen: {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The runtime cannot be started.
    #[error("failed to serve")]
    Serve(#[source] std::io::Error),
}

/// Stops a server from another thread.
#[derive(Debug, Clone)]
pub struct Stop(watch::Sender<bool>);

impl Default for Stop {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Stop {
    /// Lets answers that are under way end, and no new request begin.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    async fn stopped(&self) {
        // an error would mean that no sender is left, but `self` is one
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}

struct Shared {
    board: Arc<Board>,
    credentials: Option<Credentials>,
}

/// Serves until it is stopped. One thread is enough: the work is the database's.
pub fn serve(settings: Settings, stop: &Stop) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Serve)?;
    let served = runtime.block_on(run(settings, stop));
    // without those who wait for a file server
    runtime.shutdown_background();
    served
}

async fn run(settings: Settings, stop: &Stop) -> Result<(), ServeError> {
    let Settings { listen, place, other_place, locks, credentials, say } = settings;
    let failed = |source| ServeError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    say(Event::Listening { address: listener.local_addr().map_err(failed)? });
    let board = Arc::new(Board::new(Places::new(place, other_place, PATIENCE), locks, say));
    answer(listener, &router(Arc::clone(&board), credentials), stop).await;
    board.places.close().await;
    Ok(())
}

/// Answers until the stop, and then what is under way.
async fn answer(listener: TcpListener, router: &Router, stop: &Stop) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let open = GracefulShutdown::new();
    loop {
        // those for whom there is no room wait in the kernel's queue
        let next = async {
            let turn = Arc::clone(&room).acquire_owned().await;
            (turn, listener.accept().await)
        };
        let (turn, accepted) = tokio::select! {
            next = next => next,
            () = stop.stopped() => break,
        };
        let Ok((stream, _)) = accepted else {
            // too many open files, mostly; it may have been one who is gone already
            tokio::time::sleep(AFTER_FAILURE).await;
            continue;
        };
        // without it the end of an answer may wait for the other side
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _turn = turn;
            // whoever hangs up has seen enough
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, open.shutdown()).await;
}

fn router(board: Arc<Board>, credentials: Option<Credentials>) -> Router {
    let shared = Arc::new(Shared { board: Arc::clone(&board), credentials });
    Router::new()
        .route("/", get(pages::overview::show))
        .route("/pairs/{name}", get(pages::pair::show))
        .route("/runs/{run}", get(pages::run::show))
        .route("/runs/{run}/operations.csv", get(download::csv))
        .route("/runs/{run}/operations.jsonl", get(download::jsonl))
        .route("/search", get(pages::search::show))
        .route("/api/pairs", get(api::pairs))
        .route("/api/pairs/{name}", get(api::pair))
        .route("/api/iterations", get(api::iterations))
        .route("/api/iterations/{run}", get(api::iteration))
        .route("/api/operations", get(api::operations))
        .route("/api/history", get(api::history))
        .route("/api/paths", get(api::paths))
        .route("/api/openapi.json", get(api::openapi))
        .route("/metrics", get(metrics::show))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/assets/{mark}/{name}", get(assets::serve))
        .fallback(async || Refusal::NotFound("there is no such page".to_owned()))
        .method_not_allowed_fallback(async || Refusal::MethodNotAllowed)
        .with_state(board)
        .layer(middleware::from_fn_with_state(shared, around))
}

/// Says that the process lives; the database is not its business.
async fn healthy() -> &'static str {
    "ok\n"
}

/// Says whether requests can be answered: a database without a table yet can be read.
async fn ready(State(board): State<Arc<Board>>) -> Result<&'static str, Refusal> {
    match board.view().await.away {
        None => Ok("ready\n"),
        Some(away) => Err(Refusal::Unavailable(away.why)),
    }
}

/// Is what holds for every request.
async fn around(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    // The kubelet has no login, and is told nothing but one word.
    let probe = matches!(path.as_str(), "/healthz" | "/readyz");
    let challenge = shared.credentials.as_ref().filter(|_| !probe).and_then(|credentials| {
        let given = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        (!credentials.accept(given)).then(|| credentials.challenge())
    });
    let response = match challenge {
        Some(_) => Refusal::Unauthorized.into_response(),
        None => match tokio::time::timeout(LONGEST, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Refusal::Unavailable("the answer took too long".to_owned()).into_response(),
        },
    };
    let mut response = match response.extensions().get::<Refusal>().cloned() {
        None => response,
        Some(refusal) if is_for_programs(&path) => refusal.problem(),
        // the reason may have names of hosts in it, and probes have no login
        Some(refusal) if probe => (refusal.status(), "not ready\n").into_response(),
        Some(refusal) => pages::refusal(&shared.board, &refusal).await,
    };
    let headers = response.headers_mut();
    if let Some(challenge) = challenge {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if response.status() == axum::http::StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    secure(response.headers_mut());
    response
}

/// Tells whether a program asks: for the API, or for a file that a program reads.
fn is_for_programs(path: &str) -> bool {
    let download = path.starts_with("/runs/") && (path.ends_with(".csv") || path.ends_with(".jsonl"));
    path == "/api" || path.starts_with("/api/") || download
}

/// Sets what keeps a browser from doing more than it should, whatever a name in the page says.
fn secure(headers: &mut HeaderMap) {
    const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
        connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let fixed: [(HeaderName, &'static str); 6] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

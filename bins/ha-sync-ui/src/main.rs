//! The command `ha-sync-ui`: parses, wires the dashboard to the store and the locks, ends with the signal.

mod arguments;
mod locks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use arguments::{Arguments, Refusal};
use ha_audit::dsn::Dsn;
use ha_cli::environment;
use ha_cli::exit;
use ha_cli::failure::{Failure, FailureKind, OrFailure as _};
use ha_cli::report::{LogFormat, Mode, Options, Reporter};
use ha_dashboard::server::Stop;
use ha_dashboard::{Credentials, Event, Place, Settings};
use ha_sync_core::event::{Event as RunEvent, Observer as _};
use ha_sync_fs::local;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Is the name of the embedded database in the log directory.
const DATABASE: &str = "ha-sync.db";

fn main() -> ExitCode {
    let (result, format) = match arguments::parse(std::env::args_os()) {
        Ok(arguments) => {
            let format = arguments.log_format;
            (run(arguments), format)
        }
        Err(Refusal::Shown(text)) => {
            let shown = ha_cli::usage::show(&text).or_failure(FailureKind::Failed);
            (shown.map(|()| exit::ExitCode::Success), LogFormat::Text)
        }
        Err(Refusal::Failure(failure)) => (Err(failure), LogFormat::Text),
    };
    match result {
        Ok(code) => code.into(),
        Err(failure) => {
            failure.print(format);
            failure.exit_code().into()
        }
    }
}

fn run(arguments: Arguments) -> Result<exit::ExitCode, Failure> {
    let credentials = credentials(arguments.auth_file.as_deref())?;
    let (place, other_place) = places(&arguments)?;
    let reporter = Reporter::new(Options {
        mode: Mode::choose(Some(arguments.log_format), false),
        verbose: false,
        quiet: false,
        dry_run: false,
    });
    let open_to_all = credentials.is_none() && !arguments.listen.ip().is_loopback();
    let mut database = place.dsn.to_string();
    if let Some(other) = &other_place {
        database = format!("{database}, or {} while there is none", other.dsn);
    }
    let say = move |event: Event<'_>| match event {
        Event::Listening { address } => {
            reporter.note(&format!("listening on http://{address}, reading {database}"));
            if open_to_all {
                reporter.note("there is no login here: whoever reaches this address sees the names of files");
            }
            reporter.stop();
        }
        Event::DatabaseAway { why } => {
            reporter.event(RunEvent::Warning { message: &format!("the database is away: {why}") });
            reporter.stop();
        }
        Event::DatabaseBack => {
            reporter.note("the database is back");
            reporter.stop();
        }
        Event::LogsUnknown { why } => {
            let message = format!("the logs that wait for the database cannot be counted: {why}");
            reporter.event(RunEvent::Warning { message: &message });
            reporter.stop();
        }
        Event::LogsKnown => {
            reporter.note("the logs that wait for the database can be counted again");
            reporter.stop();
        }
    };
    let stop = Stop::default();
    listen_to_signals(&stop)?;
    let settings = Settings {
        listen: arguments.listen,
        place,
        other_place,
        locks: locks::choose(&arguments)?,
        credentials,
        say: Box::new(say),
    };
    ha_dashboard::serve(settings, &stop).or_failure(FailureKind::Failed)?;
    Ok(exit::ExitCode::Success)
}

/// Stops in order; a second signal ends the process at once.
fn listen_to_signals(stop: &Stop) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).or_failure(FailureKind::Failed)?;
    let stop = stop.clone();
    let listen = move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 {
                signal_hook::low_level::exit(128 + signal);
            }
            stop.stop();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).or_failure(FailureKind::Failed)?;
    Ok(())
}

/// Returns where records may be: without a DSN, in the directory that a run with the same flags would use. A run takes
/// the other one when it may not write to the first. Nothing is looked at here: a directory may hang.
fn places(arguments: &Arguments) -> Result<(Place, Option<Place>), Failure> {
    let log_directory = arguments.log_dir.clone();
    if let Some(text) = arguments.db_dsn.as_deref().filter(|dsn| !dsn.is_empty()) {
        let dsn = text.parse::<Dsn>().or_failure(FailureKind::Usage).map_err(|failure| {
            failure
                .context("the value of --db-dsn or HA_SYNC_DB_DSN is refused")
                .hint("for a file: --db-dsn sqlite:/var/lib/ha-sync/audit.db")
        })?;
        return Ok((Place { dsn, log_directory: Some(log_directory) }, None));
    }
    let within =
        |directory: PathBuf| Place { dsn: Dsn::Sqlite(directory.join(DATABASE)), log_directory: Some(directory) };
    let other = environment::state_directory().filter(|_| !arguments.log_dir_given);
    Ok((within(log_directory), other.map(|state| within(state.join("ha-sync")))))
}

/// Reads the logins: of the file, else of the environment.
fn credentials(file: Option<&Path>) -> Result<Option<Credentials>, Failure> {
    let (text, place) = match file {
        Some(path) => {
            let content = local::read(path).or_failure(FailureKind::Usage)?;
            (String::from_utf8_lossy(&content).into_owned(), path.display().to_string())
        }
        None => match environment::UI_AUTH.get() {
            Some(text) => (text.to_string_lossy().into_owned(), environment::UI_AUTH.name.to_owned()),
            None => return Ok(None),
        },
    };
    let parsed = Credentials::parse(&text).or_failure(FailureKind::Usage);
    parsed.map(Some).map_err(|failure| failure.context(format!("the logins are refused: {place}")))
}

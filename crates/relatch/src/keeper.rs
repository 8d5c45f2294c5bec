//! A keeper from start to end: builds it from a [`Launch`], opens its doors, and closes them when it is told to stop.
//!
//! What happens to messages in between is `relatch-net`'s, what happens to calls `relatch-core`'s.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use relatch_admin::journal::folder_in;
use relatch_admin::metrics;
use relatch_admin::page::{Page, Setting, Shown, Watched};
use relatch_admin::{Journal, JournalFolder, KeeperKind, Serving, control, runtime};
use relatch_core::policy::Policy;
use relatch_net::downstream::http::HttpConfig;
use relatch_net::downstream::origin::{Allowed, token_file};
use relatch_net::downstream::{http as http_side, stdio as stdio_side};
use relatch_net::hooks::{Hooks, Webhook};
use relatch_net::keeper::{Keeper, KeeperConfig, ServerConfig};
use relatch_net::upstream::command::Command;
use relatch_net::upstream::dial::{Nearness, Target, Tls};
use relatch_net::upstream::way::Address;
use relatch_store::{SqliteStore, Store, StoreError};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::exit;
use crate::face::Face;
use crate::launch::{Again, Launch, Place, Program, ServerSpec};
use crate::reload::Reloader;
use crate::render::dev::Listening;
use crate::render::{self, Failure};
use crate::{supervisor, ways};

/// The last entries of a keeper that ends have so long to reach the disk.
const JOURNAL_WITHIN: Duration = Duration::from_secs(1);

/// Open files that a keeper of many clients may have, where the system lets it: each session with its streams open takes
/// two, and many systems begin with 1,024 in all.
#[cfg(unix)]
const FILES: u64 = 32_768;

/// Runs a keeper until it is told to end.
///
/// # Errors
/// What kept it from starting, or ended it. A [`Failure`] inside keeps its hint and exit code.
pub(crate) fn run(launch: Launch, again: Again) -> anyhow::Result<ExitCode> {
    run_with(launch, again, None)
}

/// What else runs while a keeper does: when it ends, the keeper does, and when the keeper is told to end, it is told so.
pub(crate) type Beside =
    Box<dyn FnOnce(Running, watch::Receiver<bool>) -> Pin<Box<dyn Future<Output = Result<(), Failure>>>>>;

/// A keeper that runs, for what runs beside it.
pub(crate) struct Running {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) face: Arc<Face>,
    pub(crate) journal: Arc<Journal>,
    /// Where its clients find its first upstream, where it serves over HTTP.
    pub(crate) listening: Option<Listening>,
}

/// The same with something beside it, which says where it listens.
pub(crate) fn run_with(launch: Launch, again: Again, beside: Option<Beside>) -> anyhow::Result<ExitCode> {
    for warning in &launch.warnings {
        render::say(&render::config::warning(warning));
    }
    let handed_over = match launch.kind {
        KeeperKind::Stdio => None,
        KeeperKind::Serve => supervisor::socket().map_err(|cause| {
            Failure::new("The socket that the service manager hands over can't be used").cause(cause)
        })?,
    };
    #[cfg(unix)]
    if launch.kind == KeeperKind::Serve {
        more_files();
    }
    let threads = threads(launch.kind, std::thread::available_parallelism().map_or(1, usize::from));
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .enable_all()
        .worker_threads(threads)
        .build()
        .context("The asynchronous runtime can't be started")?;
    let done = runtime.block_on(keep(launch, again, handed_over, beside));
    // The reader of stdin is a blocking thread that nothing but input can wake.
    runtime.shutdown_background();
    done
}

/// How many threads carry calls on a machine of so many cores. One carries some 20,000 a second, and calls that meet
/// another thread take more of the machine, on which their clients and servers often are, too.
fn threads(kind: KeeperKind, cores: usize) -> usize {
    match kind {
        // One client at a time speaks here.
        KeeperKind::Stdio => 1,
        KeeperKind::Serve => (cores / 4).max(1),
    }
}

#[cfg(unix)]
fn more_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(FILES, |most| most.min(FILES));
    if current.is_some_and(|now| now < wanted) {
        // Where this is not allowed, clients wait until files are closed.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
}

async fn keep(
    launch: Launch,
    again: Again,
    handed_over: Option<std::net::TcpListener>,
    beside: Option<Beside>,
) -> anyhow::Result<ExitCode> {
    let ends = Ends::listen();
    let servers = launch.servers.iter().map(server).collect::<Result<Vec<_>, Failure>>()?;
    let records = match launch.kind {
        KeeperKind::Serve => Some(Arc::new(open_store(&launch)?) as Arc<dyn Store>),
        // A session on stdio ends with its process.
        KeeperKind::Stdio => None,
    };
    let journal = if launch.state_dir.as_os_str().is_empty() {
        Journal::in_memory()
    } else {
        Journal::in_folder(JournalFolder::new(folder_in(&launch.state_dir), launch.kind))
    };
    let sink = Arc::clone(&journal);
    let keeper = Keeper::start(KeeperConfig {
        servers,
        records,
        // A folder of its own: keepers on stdio write there beside `serve`.
        copies: (!launch.state_dir.as_os_str().is_empty()).then(|| launch.state_dir.join("copies")),
        journal: Arc::new(move |upstream, at, entry| {
            tracing::info!(
                upstream,
                subject = entry.subject.as_deref(),
                generation = entry.generation.map(|generation| generation.0),
                detail = entry.detail.as_deref(),
                "{}",
                entry.what.as_str()
            );
            sink.record(at, upstream, entry);
        }),
        tls: Tls::platform(),
    });
    let closing = Arc::clone(&keeper);
    let reloader = Reloader::new(Arc::clone(&keeper), launch.clone(), again)?;
    let face = Face::new(Arc::clone(&keeper), launch.kind, Arc::clone(&reloader), Arc::clone(&journal));
    keeper.tell_by(face.teller());
    face.remember();
    #[cfg(feature = "otel")]
    let traces = crate::traces::start(&keeper);
    // Without its control socket a keeper still serves; only `status` can't see it.
    let control =
        control::serve(Arc::clone(&face) as Arc<dyn relatch_admin::Keeper>, &runtime::runtime_dir());
    let _control = match control {
        Ok(control) => Some(control),
        Err(cause) => {
            tracing::warn!(%cause, "no control socket: `relatch status` will not see this keeper");
            None
        }
    };
    // A service manager sends it to whatever it runs.
    if (reloader.reads_a_file() || launch.kind == KeeperKind::Serve)
        && let Ok(hangup) = signal(SignalKind::hangup())
    {
        tokio::spawn(reload_on_hangup(Arc::clone(&reloader), hangup));
    }
    let done = match launch.kind {
        KeeperKind::Stdio => {
            let running =
                Running { keeper: Arc::clone(&keeper), face, journal: Arc::clone(&journal), listening: None };
            over_stdio(&launch, keeper, ends, beside.map(|beside| (beside, running))).await
        }
        KeeperKind::Serve => {
            let beside = beside.map(|beside| (beside, Arc::clone(&journal)));
            over_http(&launch, handed_over, keeper, face, ends, beside).await
        }
    };
    reloader.end().await;
    closing.close().await;
    #[cfg(feature = "otel")]
    if let Some(traces) = traces {
        traces.end().await;
    }
    // On a thread of its own, so that a disk that hangs holds nothing up but this.
    let _ = tokio::task::spawn_blocking(move || journal.flush(JOURNAL_WITHIN)).await;
    done
}

async fn over_stdio(
    launch: &Launch,
    keeper: Arc<Keeper>,
    ends: Ends,
    beside: Option<(Beside, Running)>,
) -> anyhow::Result<ExitCode> {
    let [server] = &launch.servers[..] else { anyhow::bail!("stdio keeps exactly one server") };
    if render::can_ask() {
        render::say(&render::serve::by_hand(&server.name));
    }
    let (stop, stopped) = watch::channel(false);
    let told = stop.clone();
    tokio::spawn(async move {
        ends.told().await;
        let _ = told.send(true);
    });
    let serving = stdio_side::serve(
        Arc::clone(&keeper),
        &server.name,
        tokio::io::stdin(),
        tokio::io::stdout(),
        stopped.clone(),
    );
    let done: anyhow::Result<()> = match beside {
        None => serving.await.context("The client's side ended"),
        Some((beside, running)) => {
            let (mut serving, mut working) = (pin!(serving), beside(running, stopped));
            tokio::select! {
                served = &mut serving => {
                    let _ = stop.send(true);
                    working.await.map_err(Into::into).and(served.context("The client's side ended"))
                }
                worked = &mut working => {
                    let _ = stop.send(true);
                    serving.await.context("The client's side ended").and(worked.map_err(Into::into))
                }
            }
        }
    };
    keeper.flush().await;
    done?;
    Ok(ExitCode::from(exit::DONE))
}

async fn over_http(
    launch: &Launch,
    handed_over: Option<std::net::TcpListener>,
    keeper: Arc<Keeper>,
    face: Arc<Face>,
    ends: Ends,
    beside: Option<(Beside, Arc<Journal>)>,
) -> anyhow::Result<ExitCode> {
    let listener = match handed_over {
        Some(listener) => {
            TcpListener::from_std(listener).context("The socket that was handed over can't be used")?
        }
        None => TcpListener::bind(launch.listen).await.map_err(|cause| cannot_listen(launch, &cause))?,
    };
    let bound = listener.local_addr().context("The address that was bound can't be read")?;
    let token = if launch.token {
        Some(token_file(&launch.state_dir).map_err(|cause| {
            Failure::new("The token for clients can't be kept")
                .cause(cause)
                .hint("Mend the file's mode, or serve without a token by `--no-token`")
                .exit(exit::REFUSED)
        })?)
    } else {
        None
    };
    let allowed =
        Allowed::new(bound, &launch.allow_hosts).map_err(|fault| Failure::usage(fault.to_string()))?;
    let names: Vec<&str> = launch.servers.iter().map(|s| s.name.as_str()).collect();
    // Whoever reads the address may ask about it.
    face.serves(Serving {
        base: render::serve::base(bound),
        config: launch.config.clone(),
        state_dir: std::path::absolute(&launch.state_dir).unwrap_or_else(|_| launch.state_dir.clone()),
        token: token.is_some(),
    });
    // Nobody reading it is no reason not to serve.
    // A log that others keep is no place for a token.
    let shown = if supervisor::is_there() { None } else { token.as_deref() };
    let listening = names.first().map(|name| render::serve::listening_at(bound, name, shown));
    if beside.is_none() {
        let _ = render::out(&render::serve::listening(bound, &names, shown));
    }
    let (shown, scraped) = (Arc::clone(&face), Arc::clone(&keeper));
    let metrics: http_side::Metrics = Arc::new(move || {
        let status = relatch_admin::Keeper::status(&*shown);
        Bytes::from(metrics::text(&status, &|name| scraped.open_sockets(name)))
    });
    if beside.is_none() {
        render::say(&render::serve::page(bound));
    }
    let site = site(&face, bound, token.is_none());
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(http_side::serve(
        listener,
        Arc::clone(&keeper),
        HttpConfig { allowed, token, metrics, site },
        stopped,
    ));
    let looked_at = Arc::clone(&face);
    supervisor::watch(move || drop(relatch_admin::Keeper::status(&*looked_at)));
    supervisor::ready(&render::serve::ready(bound, names.len()));
    let worked = match beside {
        None => {
            ends.told().await;
            Ok(())
        }
        Some((beside, journal)) => {
            let running =
                Running { keeper: Arc::clone(&keeper), face: Arc::clone(&face), journal, listening };
            let (end, told) = watch::channel(false);
            let mut working = beside(running, told);
            tokio::select! {
                worked = &mut working => worked,
                () = ends.told() => {
                    let _ = end.send(true);
                    working.await
                }
            }
        }
    };
    supervisor::stopping();
    let _ = stop.send(true);
    serving.await.context("The HTTP side ended unexpectedly")?;
    keeper.flush().await;
    worked?;
    Ok(ExitCode::from(exit::DONE))
}

/// The page and the API, as the HTTP side serves them.
fn site(face: &Arc<Face>, bound: SocketAddr, open: bool) -> http_side::Site {
    let clock = Arc::clone(face);
    let page = Arc::new(Page::new(
        Arc::clone(face) as Arc<dyn Watched>,
        Setting {
            open,
            port: bound.port(),
            clock: Box::new(move || clock.now_ms()),
            secret: relatch_net::entropy::token,
        },
    ));
    face.has_page(render::serve::base(bound), &page);
    Arc::new(move |head, token| {
        let response = page.answer(head, token)?;
        Some(response.map(|shown| match shown {
            Shown::Whole(bytes) => http_side::Shown::Whole(bytes),
            Shown::Coming(pieces) => http_side::Shown::Coming(pieces),
        }))
    })
}

/// SIGHUP has the configuration read again.
async fn reload_on_hangup(reloader: Arc<Reloader>, mut hangup: Signal) {
    let on_terminal = io::stderr().is_terminal();
    while hangup.recv().await.is_some() {
        // A terminal that was closed sends it, too, and means an end.
        if on_terminal && !io::stderr().is_terminal() {
            HUNG_UP.notify_one();
            return;
        }
        let reloaded = reloader.reload(None).await;
        render::say(&render::config::reloaded_by_signal(&reloaded));
    }
}

/// Rung when the terminal is gone.
static HUNG_UP: Notify = Notify::const_new();

/// What ends a keeper: SIGINT, SIGTERM, or a terminal that is closed. They are listened for from its beginning on, since
/// one that nobody listens for ends the process on the spot.
struct Ends {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
}

impl Ends {
    fn listen() -> Ends {
        let [interrupt, terminate] =
            [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok());
        Ends { interrupt, terminate }
    }

    async fn told(mut self) {
        tokio::select! {
            () = heard(&mut self.interrupt) => {}
            () = heard(&mut self.terminate) => {}
            () = HUNG_UP.notified() => {}
        }
    }
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        // It can't be listened for.
        None => std::future::pending().await,
    }
}

fn cannot_listen(launch: &Launch, cause: &io::Error) -> Failure {
    let failure = Failure::new(format!("relatch can't listen on `{}`", launch.listen)).cause(cause);
    match cause.kind() {
        io::ErrorKind::AddrInUse => failure.hint(
            "Another program, perhaps another keeper, has this port: run `relatch status`, or choose one with `--listen`",
        ),
        io::ErrorKind::PermissionDenied => failure.hint("Choose a port above 1023 with `--listen`").exit(exit::REFUSED),
        io::ErrorKind::AddrNotAvailable => {
            failure.hint("Give an address of this machine to `--listen`, such as `127.0.0.1:7332`")
        }
        _ => failure,
    }
}

fn open_store(launch: &Launch) -> Result<SqliteStore, Failure> {
    let store =
        SqliteStore::open(launch.records_dir.as_ref().unwrap_or(&launch.state_dir)).map_err(|fault| {
            match &fault {
                StoreError::Locked { .. } => {
                    Failure::new("Another keeper serves the sessions in this folder")
                        .cause(&fault)
                        .hint("Stop it first, or give this one a folder of its own with `--state-dir DIR`")
                        .exit(exit::REFUSED)
                }
                _ => Failure::new("The sessions of earlier keepers can't be read")
                    .cause(&fault)
                    .hint("Mend the folder, or give another one with `--state-dir DIR`")
                    .exit(exit::REFUSED),
            }
        })?;
    if let Ok(unreadable) = store.unreadable() {
        for (id, why) in unreadable {
            tracing::warn!(session = %id, %why, "a session record is kept and not served");
        }
    }
    Ok(store)
}

pub(crate) fn hooks_of(launch: &Launch) -> Result<Hooks, Failure> {
    let webhook = match &launch.hooks.webhook {
        Some(text) => Some(
            Webhook::parse(text)
                .map_err(|fault| Failure::usage("The address of `--webhook` can't be used").cause(fault))?
                .by(ways::usual()),
        ),
        None => None,
    };
    Ok(Hooks { command: launch.hooks.command.clone(), webhook })
}

pub(crate) fn server(spec: &ServerSpec) -> Result<ServerConfig, Failure> {
    let (address, local) = match &spec.place {
        Place::Url(url) => {
            let target = Target::parse(url).map_err(|fault| {
                Failure::usage(format!("The address of `{}` can't be used", spec.name)).cause(fault)
            })?;
            let local = target.nearness() != Nearness::Public;
            let route = ways::route(&spec.name, &target, &spec.ways)?;
            (Address::Url(target.by(route)), local)
        }
        Place::Command(program) => {
            ways::of_command(&spec.name, &spec.ways)?;
            (Address::Command(command(program)), true)
        }
    };
    let policy = Policy {
        hold_ms: spec.hold_ms,
        stateful: spec.stateful,
        replay: spec.replay.clone(),
        gateway_errors_refused: spec.gateway_errors_refused,
        transport: spec.transport,
        tell: spec.tell,
        copies: spec.copies,
        local,
        process: matches!(address, Address::Command(_)),
        // Messages, journal and records show the address; a key in its query is none of theirs.
        ..Policy::new(spec.name.clone(), spec.shown.clone())
    };
    let headers = headers(&spec.name, &spec.headers)?;
    Ok(ServerConfig { policy, headers, address })
}

/// The headers that a server gets with every request.
pub(crate) fn headers(server: &str, pairs: &[(String, String)]) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let pair = HeaderName::try_from(name.as_str()).ok().zip(HeaderValue::try_from(value.as_str()).ok());
        let (name, mut value) = pair.ok_or_else(|| {
            Failure::usage(format!("The header `{name}` of `{server}` can't be sent"))
                .hint("Names are letters, digits and hyphens; values are visible ASCII")
        })?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// A server that is a command, guarded by this program, so that nothing of it outlives relatch.
pub(crate) fn command(program: &Program) -> Command {
    // Found once: an update that takes the place of this program would change its name.
    static OWN: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::current_exe().ok());
    let mut words = program.words.iter().cloned();
    let parent = std::process::id().to_string();
    let guard = OWN
        .clone()
        .map(|own| vec![own.into(), "guard".into(), "--parent".into(), parent.into(), "--".into()]);
    Command {
        program: words.next().unwrap_or_default(),
        arguments: words.collect(),
        env: program.env.clone(),
        inherit: program.inherit_env.clone(),
        folder: program.cwd.clone(),
        guard,
        shared: program.shared,
    }
}

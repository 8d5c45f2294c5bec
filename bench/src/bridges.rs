//! Other bridges on the same measures: a client that speaks by lines, a server that speaks Streamable HTTP.
//!
//! Each is started as its own documentation says, called, and left alone while its server is killed and started again.
//! Whether it survives is what its client sees: the next call answered, answered later, or never.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::proc::Family;
use crate::render::{Cell, Report, Table, progress};
use crate::stage::{self, Kind, Server};

/// A bridge that takes longer to its first answer does not work.
const STARTS: Duration = Duration::from_secs(40);
/// A call after the restart is waited for so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many calls are tried after a restart.
const TRIES: usize = 5;

/// How much is measured.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// Rounds, the bridges in turn
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Calls of a round
    #[arg(long, default_value_t = 100)]
    calls: usize,
    /// Where the bridges are installed
    #[arg(long)]
    folder: PathBuf,
}

/// A bridge between lines and an address.
struct Bridge {
    name: &'static str,
    words: Vec<String>,
}

fn bridges(extent: &Extent, url: &str) -> anyhow::Result<Vec<Bridge>> {
    let text = |path: PathBuf| path.display().to_string();
    let node = stage::setup("bin/node")?;
    let script = |path: &str| vec![text(node.clone()), text(extent.folder.join("node_modules").join(path))];
    let with = |mut words: Vec<String>, more: &[&str]| {
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words
    };
    let proxy = format!(
        "from fastmcp.server import create_proxy\ncreate_proxy('{url}').run(transport='stdio', show_banner=False)"
    );
    let module = extent.folder.join("node_modules/mcp-proxy/dist/index.mjs");
    let started = format!(
        "import {{ startStdioServer, ServerType }} from 'file://{}';\n\
         await startStdioServer({{ serverType: ServerType.HTTPStream, url: '{url}' }});",
        module.display()
    );
    Ok(vec![
        Bridge { name: "relatch stdio", words: with(vec![text(stage::relatch()?)], &["stdio", url]) },
        Bridge {
            name: "mcp-remote (npm)",
            words: with(
                script("mcp-remote/dist/proxy.js"),
                &[url, "--allow-http", "--transport", "http-only"],
            ),
        },
        Bridge {
            name: "supergateway (npm)",
            words: with(
                script("supergateway/dist/index.js"),
                &["--streamableHttp", url, "--logLevel", "none"],
            ),
        },
        Bridge {
            // Its command line only goes the other way.
            name: "mcp-proxy (npm), startStdioServer",
            words: with(vec![text(node.clone())], &["--input-type=module", "-e", &started]),
        },
        Bridge {
            name: "mcp-proxy (PyPI)",
            words: with(
                vec![text(extent.folder.join("venv/bin/mcp-proxy"))],
                &["--transport", "streamablehttp", url],
            ),
        },
        Bridge {
            name: "fastmcp proxy (PyPI)",
            words: with(vec![text(stage::setup("venv-fastmcp/bin/python")?)], &["-c", &proxy]),
        },
    ])
}

/// A running bridge and its client.
struct Talk {
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
    family: Family,
    ids: u64,
    first: f64,
    _child: Child,
}

impl Talk {
    async fn start(bridge: &Bridge, home: &Path) -> anyhow::Result<Talk> {
        std::fs::create_dir_all(home)?;
        let [program, words @ ..] = bridge.words.as_slice() else { bail!("no program") };
        let mut command = Command::new(program);
        command.args(words);
        stage::at_home(&mut command, home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let began = Instant::now();
        let mut child = command.spawn().with_context(|| format!("`{program}` can't be started"))?;
        let to = child.stdin.take().context("no stdin")?;
        let from = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let pid = child.id().context("it has ended")?;
        let mut talk = Talk { to, from, family: Family::of(pid), ids: 0, first: 0.0, _child: child };
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "relatch-bench", "version": "1"},
        });
        let answer = talk.ask("initialize", params, STARTS).await?;
        anyhow::ensure!(answer["result"].is_object(), "`initialize` was answered with {answer}");
        talk.first = began.elapsed().as_secs_f64() * 1e3;
        talk.to.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n").await?;
        talk.family = Family::of(pid);
        Ok(talk)
    }

    async fn echo(&mut self, patience: Duration) -> anyhow::Result<Value> {
        self.ask("tools/call", json!({"name": "echo", "arguments": {"text": "a few words"}}), patience).await
    }

    async fn ask(&mut self, method: &str, params: Value, patience: Duration) -> anyhow::Result<Value> {
        self.ids += 1;
        let id = self.ids;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.to.write_all(format!("{message}\n").as_bytes()).await?;
        let answer = async {
            loop {
                let line = self.from.next_line().await?.context("the bridge has ended")?;
                // Some say other things on stdout, too.
                let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
                if message["id"] == id && message.get("method").is_none() {
                    return Ok(message);
                }
            }
        };
        tokio::time::timeout(patience, answer).await.context("no answer")?
    }
}

pub(crate) async fn measure(extent: &Extent) -> anyhow::Result<Report> {
    let folder = tempfile::tempdir()?;
    let mut report = Report { title: "bridges", ..Report::default() };
    report.notes.push(format!("before: {}", stage::load()));
    report.notes.push("a client by lines, the rmcp server over HTTP with SSE answers".to_owned());
    let mut server = Server::start(Kind::Echo { json: false }, folder.path()).await?;
    let all = bridges(extent, &format!("http://{}/mcp", server.at))?;
    let mut talks = Vec::new();
    for bridge in &all {
        progress(bridge.name);
        match Talk::start(bridge, &folder.path().join(bridge.name)).await {
            Ok(talk) => talks.push(Some(talk)),
            Err(fault) => {
                report.notes.push(format!("{} does not work here: {fault:#}", bridge.name));
                talks.push(None);
            }
        }
    }
    let mut times = vec![Vec::new(); all.len()];
    let mut cpu = vec![Vec::new(); all.len()];
    for round in 0..extent.rounds {
        for turn in 0..all.len() {
            let at = (turn + round) % all.len();
            let Some(Some(talk)) = talks.get_mut(at) else { continue };
            let before = talk.family.cpu_us();
            let mut each = Vec::new();
            for _ in 0..extent.calls {
                let began = Instant::now();
                let answer = talk.echo(PATIENCE).await?;
                anyhow::ensure!(answer["result"].is_object(), "a call was answered with {answer}");
                each.push(began.elapsed().as_secs_f64() * 1e6);
            }
            each.sort_by(f64::total_cmp);
            cpu[at].push((talk.family.cpu_us() - before) / extent.calls as f64);
            times[at].push(each.get(each.len() / 2).copied().unwrap_or_default());
        }
    }
    let memory: Vec<Option<f64>> =
        talks.iter().map(|talk| talk.as_ref().and_then(|talk| talk.family.rss_kb().ok())).collect();
    server.kill().await?;
    server.again().await?;
    let mut table = Table::new(
        "bridges beside relatch (p50 and quarters; ratios of the same round)",
        &[
            "bridge",
            "p50 µs",
            "× relatch",
            "CPU ms per 1,000",
            "CPU × relatch",
            "memory MB",
            "first answer ms",
            "after its server's restart",
        ],
    );
    for (at, bridge) in all.iter().enumerate() {
        let over = |figures: &[Vec<f64>]| {
            let pairs = figures[at].iter().zip(&figures[0]);
            Cell::spread(pairs.map(|(own, relatch)| own / relatch).collect::<Vec<_>>(), 2)
        };
        let after = match &mut talks[at] {
            Some(talk) => survives(talk).await,
            None => "–".to_owned(),
        };
        progress(&format!("{}: {after}", bridge.name));
        table.rows.push(vec![
            Cell::text(bridge.name),
            Cell::spread(times[at].iter().copied(), 0),
            over(&times),
            Cell::spread(cpu[at].iter().copied(), 1),
            over(&cpu),
            memory[at].map_or(Cell::Nothing, |kb| Cell::Number(kb / 1024.0, 1)),
            talks[at].as_ref().map_or(Cell::Nothing, |talk| Cell::Number(talk.first, 0)),
            Cell::text(after),
        ]);
    }
    report.tables.push(table);
    report.notes.push(format!("after: {}", stage::load()));
    Ok(report)
}

/// What the client sees after its server was killed and started again.
async fn survives(talk: &mut Talk) -> String {
    let mut last = String::new();
    for number in 1..=TRIES {
        match talk.echo(PATIENCE).await {
            Ok(answer) if answer["result"].is_object() && answer["result"]["isError"] != true => {
                return match number {
                    1 => "the next call is answered".to_owned(),
                    number => format!("call {number} is answered, those before failed: {last}"),
                };
            }
            Ok(answer) => {
                let error = match answer["error"]["message"].as_str() {
                    Some(words) => words.to_owned(),
                    None => answer["result"].to_string(),
                };
                last = format!("`{}`", error.chars().take(60).collect::<String>());
            }
            Err(fault) if fault.to_string() == "no answer" => {
                return format!("a call gets no answer within {PATIENCE:?}");
            }
            Err(fault) => return fault.to_string(),
        }
    }
    format!("every call fails: {last}")
}

//! `relatch config`: looks at the configuration file and changes nothing.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::serve::state_dir;
use super::upstream::ConfigFile;
use crate::config::read::Follow;
use crate::config::{self, Loaded, schema};
use crate::exit;
use crate::keeper;
use crate::launch::ServerSpec;
use crate::render::{self, Failure};

/// Look at the configuration file: is it right, where is it
#[derive(Debug, Args)]
#[command(after_help = "Exits with 2 when the file is not there or something in it is wrong.

Examples:
  relatch config check              everything that is wrong, and where
  relatch config show               what it comes to, without secrets
  $EDITOR \"$(relatch config path)\"")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,

    #[command(flatten)]
    file: ConfigFile,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say everything that is wrong with the file, or that nothing is
    #[command(after_help = "Example:\n  relatch config check")]
    Check,
    /// Print what the file comes to, with the origin of each value; secrets are hidden
    #[command(after_help = "Examples:\n  relatch config show\n  relatch config show --json")]
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print where the file is, or would be
    #[command(after_help = "Example:\n  relatch config path")]
    Path,
    /// Print the JSON Schema of the file, for editors
    #[command(after_help = "Example:\n  relatch config schema > relatch.schema.json")]
    Schema,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    match &arguments.what {
        What::Path => {
            let path = arguments.file.needed()?;
            let _ = render::out(&format!("{}\n", path.display()));
        }
        What::Schema => {
            let _ = render::out(&schema::text());
        }
        What::Check => {
            let loaded = load(&arguments.file)?;
            // What it names is not the file itself: it may be on its way.
            for server in &loaded.config.servers {
                if let Err(failure) = keeper::server(&ServerSpec::of(server)) {
                    render::say(&render::config::warning(&render::config::in_a_line(&failure)));
                }
            }
            let _ = render::out(&render::config::well(&loaded));
        }
        What::Show { json } => {
            let loaded = load(&arguments.file)?;
            let given = loaded.config.state_dir.as_ref().map(|set| set.value.clone());
            let dir = state_dir(given).unwrap_or_default();
            let text = match json {
                true => format!("{:#}\n", render::config::show_json(&loaded, &dir)),
                false => render::config::show(&loaded, &dir),
            };
            let _ = render::out(&text);
        }
    }
    Ok(ExitCode::from(exit::DONE))
}

fn load(file: &ConfigFile) -> Result<Loaded, Failure> {
    let loaded = config::load(&file.needed()?, Follow::All)?;
    for warning in &loaded.warnings {
        render::say(&render::config::warning(warning));
    }
    Ok(loaded)
}

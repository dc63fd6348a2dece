//! What the cluster of a `data_dir` was made with, noted at its first start, to tell a person who
//! later changes `[cluster]` that this changes nothing, and to tell the coordinators that founded it
//! from those that are added later. What is in force is committed in the coordinator group.

use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::{Error, Launcher};
use crate::{
    config::{Config, Settings},
    units,
};

/// The file with the note, in `data_dir`.
const NOTE: &str = "founding.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Founding {
    settings: Settings,
    coordinators: Vec<u16>,
}

/// The note of a `data_dir`, where there is one that can be read.
fn note(config: &Config) -> Result<Option<Founding>, Error> {
    let path = config.data_dir.join(NOTE);
    match fs::read(&path) {
        // A note of another format tells nothing.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("read {}", path.display()))(error)),
    }
}

/// Whether a coordinator with one of these ports has been started here.
fn is_founded(config: &Config, ports: &[u16]) -> bool {
    ports.iter().any(|port| config.node_dir("coordinator", *port).exists())
}

/// The coordinators that the cluster was founded with; before that, those of the file.
pub(super) fn founders(config: &Config) -> Result<Vec<u16>, Error> {
    let noted = note(config)?.filter(|note| is_founded(config, &note.coordinators));
    Ok(noted.map_or_else(|| config.coordinators.clone(), |note| note.coordinators))
}

impl Launcher {
    /// Notes what the cluster is made with, at its first start; later, a line for each difference.
    pub(super) fn founding_warnings(&self) -> Result<Vec<String>, Error> {
        let now = Founding {
            settings: self.config.settings.clone(),
            coordinators: self.config.coordinators.clone(),
        };
        let founded = is_founded(&self.config, &self.founders);
        match note(&self.config)? {
            Some(before) if founded => {
                let file = self.shown.display();
                let differences = differences(&before, &now).into_iter();
                Ok(differences.map(|difference| format!("warning: {file}: {difference}")).collect())
            }
            // Made by other means, so that nobody knows with what.
            None if founded => Ok(Vec::new()),
            _ => {
                let path = self.config.data_dir.join(NOTE);
                let note = serde_json::to_vec_pretty(&now).expect("numbers and texts");
                fs::write(&path, note).map_err(Error::io(format!("write {}", path.display())))?;
                Ok(Vec::new())
            }
        }
    }
}

fn differences(before: &Founding, now: &Founding) -> Vec<String> {
    let (old, new) = (shown(&before.settings), shown(&now.settings));
    let mut lines: Vec<_> = old
        .into_iter()
        .zip(new)
        .filter(|(old, new)| old != new)
        .map(|((key, old), (_, new))| {
            format!(
                "cluster.{key} = {new} is without effect: the cluster was made with {old}, and that stays"
            )
        })
        .collect();
    for gone in before.coordinators.iter().filter(|port| !now.coordinators.contains(port)) {
        lines.push(format!(
            "coordinator {gone} is not there, and may still be a member of the group: take it out with \
             quoring coordinators remove 127.0.0.1:{gone}"
        ));
    }
    lines
}

/// The settings under their names in `cluster.toml`, as they are typed there.
fn shown(settings: &Settings) -> Vec<(&'static str, String)> {
    // Taken apart by name, so that a setting added later cannot be forgotten here.
    let Settings {
        name,
        replication,
        shards,
        partitioner,
        ping_interval_ms,
        inactive_after_ms,
        replace_after_ms,
        request_timeout_ms,
        max_value_bytes,
        split_size_bytes,
    } = settings;
    let quoted = |text: String| format!("\"{text}\"");
    let duration = |ms: &u64| quoted(units::format_duration_ms(*ms));
    vec![
        ("name", quoted(name.clone())),
        ("replication", replication.to_string()),
        ("shards", shards.to_string()),
        ("partitioner", quoted(format!("{partitioner:?}").to_lowercase())),
        ("ping_interval", duration(ping_interval_ms)),
        ("inactive_after", duration(inactive_after_ms)),
        ("replace_after", duration(replace_after_ms)),
        ("request_timeout", duration(request_timeout_ms)),
        ("max_value", quoted(units::format_size_bytes(*max_value_bytes))),
        ("split_size", quoted(units::format_size_bytes(*split_size_bytes))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_after_the_founding_is_told_by_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.toml");
        fs::create_dir(dir.path().join("data")).unwrap();
        let warnings = |text: &str| {
            fs::write(&path, text).unwrap();
            Launcher::open(&path, "quoring".into()).unwrap().founding_warnings().unwrap()
        };
        let first = "[[coordinator]]\nport = 1\n";
        assert!(warnings("[cluster]\nshards = 1\n[[coordinator]]\nport = 1\n").is_empty());
        assert!(warnings(first).is_empty(), "nothing was started yet: this is noted instead");
        fs::create_dir_all(dir.path().join("data/coordinator-1")).unwrap();
        assert!(warnings(first).is_empty());
        let changed =
            "[cluster]\nshards = 8\nmax_value = \"1MiB\"\npartitioner = \"md5\"\n[[coordinator]]\nport = 2\n";
        let shown = path.display();
        let expected = [
            "cluster.shards = 8 is without effect: the cluster was made with 3, and that stays",
            "cluster.partitioner = \"md5\" is without effect: the cluster was made with \"xxh3\", and that stays",
            "cluster.max_value = \"1MiB\" is without effect: the cluster was made with \"8MiB\", and that stays",
            "coordinator 1 is not there, and may still be a member of the group: take it out with quoring coordinators remove 127.0.0.1:1",
        ]
        .map(|line| format!("warning: {shown}: {line}"));
        assert_eq!(warnings(changed), expected);
        fs::remove_file(dir.path().join("data/founding.json")).unwrap();
        assert!(warnings(changed).is_empty(), "nobody knows what it was made with");
    }
}

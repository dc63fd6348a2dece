//! From what was typed in `cluster.toml` to what follows from it: defaults filled in, limits judged.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use super::{
    Config, Memory, Partitioner, Settings, Worker,
    file::{self, Error, Field},
};
use crate::units;

impl Config {
    /// Reads the text of a `cluster.toml`. `path` is where it lies: errors name it, and a relative
    /// `data_dir` starts from its folder.
    pub fn parse(path: &Path, text: &str) -> Result<Config, Error> {
        let name = path.display().to_string();
        let typed = file::parse(&name, text)?;
        Resolver { file: &name }.config(&typed, path.parent().unwrap_or(Path::new("")))
    }
}

struct Resolver<'a> {
    file: &'a str,
}

impl Resolver<'_> {
    fn error(&self, line: usize, key: &str, message: impl Into<String>) -> Error {
        Error { file: self.file.to_owned(), line, key: key.to_owned(), message: message.into() }
    }

    fn wrong<T>(&self, field: &Field<T>, message: impl Into<String>) -> Error {
        self.error(field.line, field.key, message)
    }

    fn config(&self, typed: &file::File, folder: &Path) -> Result<Config, Error> {
        let settings = self.settings(&typed.cluster)?;
        let data_dir = match &typed.cluster.data_dir {
            None => folder.join(Config::DEFAULT_DATA_DIR),
            Some(dir) if dir.value.is_empty() => {
                return Err(self.wrong(dir, "must name a directory, is empty"));
            }
            Some(dir) => folder.join(PathBuf::from(&dir.value)),
        };
        if typed.coordinators.is_empty() {
            return Err(self.error(1, "coordinator", "a cluster needs at least one [[coordinator]]"));
        }
        let mut ports = BTreeMap::new();
        let mut coordinators = Vec::new();
        for node in &typed.coordinators {
            coordinators.push(self.port(node, "coordinator.port", &mut ports)?);
        }
        let mut workers = Vec::new();
        for node in &typed.workers {
            let port = self.port(node, "worker.port", &mut ports)?;
            let zone = node.zone.as_ref().map(|zone| self.zone(zone)).transpose()?;
            workers.push(Worker { port, zone });
        }
        if let Some(surplus) = typed.coordinators.iter().chain(&typed.workers).nth(Config::MAX_NODES) {
            let message = format!("at most {} nodes run on one machine", Config::MAX_NODES);
            return Err(self.error(surplus.line, "worker", message));
        }
        Ok(Config { settings, data_dir, memory: self.memory(&typed.cluster)?, coordinators, workers })
    }

    fn memory(&self, typed: &file::Cluster) -> Result<Memory, Error> {
        let default = Memory::default();
        Ok(Memory {
            cache_bytes: self.size_bytes(&typed.cache, default.cache_bytes, &Memory::CACHE_BYTES)?,
            memtables_bytes: self.size_bytes(
                &typed.memtables,
                default.memtables_bytes,
                &Memory::MEMTABLES_BYTES,
            )?,
            queues_bytes: self.size_bytes(&typed.queues, default.queues_bytes, &Memory::QUEUES_BYTES)?,
        })
    }

    fn settings(&self, typed: &file::Cluster) -> Result<Settings, Error> {
        let default = Settings::default();
        let durations = Settings::MIN_DURATION_MS..=Settings::MAX_DURATION_MS;
        let requests = Settings::MIN_DURATION_MS..=Settings::MAX_REQUEST_TIMEOUT_MS;
        let settings = Settings {
            name: match &typed.name {
                None => default.name,
                Some(name) => self.name(name, Settings::MAX_NAME_CHARS)?,
            },
            replication: self.count(&typed.replication, default.replication, Settings::MAX_REPLICATION)?,
            shards: self.count(&typed.shards, default.shards, Settings::MAX_SHARDS)?,
            partitioner: self.partitioner(&typed.partitioner, default.partitioner)?,
            ping_interval_ms: self.duration_ms(&typed.ping_interval, default.ping_interval_ms, &durations)?,
            inactive_after_ms: self.duration_ms(
                &typed.inactive_after,
                default.inactive_after_ms,
                &durations,
            )?,
            replace_after_ms: self.duration_ms(&typed.replace_after, default.replace_after_ms, &durations)?,
            request_timeout_ms: self.duration_ms(
                &typed.request_timeout,
                default.request_timeout_ms,
                &requests,
            )?,
            max_value_bytes: self.size_bytes(
                &typed.max_value,
                default.max_value_bytes,
                &(1..=Settings::MAX_VALUE_BYTES),
            )?,
            split_size_bytes: self.split_size_bytes(&typed.split_size, default.split_size_bytes)?,
        };
        self.in_order(
            ("ping_interval", &typed.ping_interval, settings.ping_interval_ms),
            ("inactive_after", &typed.inactive_after, settings.inactive_after_ms),
        )?;
        self.in_order(
            ("inactive_after", &typed.inactive_after, settings.inactive_after_ms),
            ("replace_after", &typed.replace_after, settings.replace_after_ms),
        )?;
        Ok(settings)
    }

    /// A time that counts missed events must be longer than the time between two of them.
    fn in_order(
        &self,
        (shorter, shorter_typed, shorter_ms): (&str, &Option<Field<String>>, u64),
        (longer, longer_typed, longer_ms): (&str, &Option<Field<String>>, u64),
    ) -> Result<(), Error> {
        if shorter_ms < longer_ms {
            return Ok(());
        }
        let (short, long) = (units::format_duration_ms(shorter_ms), units::format_duration_ms(longer_ms));
        match (longer_typed, shorter_typed) {
            (Some(field), _) => {
                Err(self.wrong(field, format!("must be longer than {shorter} ({short}), is {long}")))
            }
            (None, Some(field)) => {
                Err(self.wrong(field, format!("must be shorter than {longer} ({long}), is {short}")))
            }
            (None, None) => Ok(()),
        }
    }

    fn count(&self, typed: &Option<Field<i64>>, default: u32, max: u32) -> Result<u32, Error> {
        let Some(field) = typed else { return Ok(default) };
        u32::try_from(field.value)
            .ok()
            .filter(|value| (1..=max).contains(value))
            .ok_or_else(|| self.wrong(field, format!("must be 1 to {max}, is {}", field.value)))
    }

    fn partitioner(&self, typed: &Option<Field<String>>, default: Partitioner) -> Result<Partitioner, Error> {
        let Some(field) = typed else { return Ok(default) };
        let known = Partitioner::NAMES.iter().find(|(name, _)| *name == field.value);
        known.map(|(_, partitioner)| *partitioner).ok_or_else(|| {
            self.wrong(field, format!("must be xxh3, md5, crc32 or ordered, is \"{}\"", shown(&field.value)))
        })
    }

    fn duration_ms(
        &self,
        typed: &Option<Field<String>>,
        default: u64,
        allowed: &RangeInclusive<u64>,
    ) -> Result<u64, Error> {
        let Some(field) = typed else { return Ok(default) };
        let ms =
            units::parse_duration_ms(&field.value).map_err(|error| self.wrong(field, error.to_string()))?;
        if allowed.contains(&ms) {
            return Ok(ms);
        }
        let (min, max) =
            (units::format_duration_ms(*allowed.start()), units::format_duration_ms(*allowed.end()));
        Err(self.wrong(field, format!("must be {min} to {max}, is {}", field.value)))
    }

    /// A size, or `0B` for never.
    fn split_size_bytes(&self, typed: &Option<Field<String>>, default: u64) -> Result<u64, Error> {
        let sizes = Settings::MIN_SPLIT_SIZE_BYTES..=Settings::MAX_SPLIT_SIZE_BYTES;
        self.size_bytes_or(typed, default, &sizes, Some(0), ", or 0B for never")
    }

    fn size_bytes(
        &self,
        typed: &Option<Field<String>>,
        default: u64,
        allowed: &RangeInclusive<u64>,
    ) -> Result<u64, Error> {
        self.size_bytes_or(typed, default, allowed, None, "")
    }

    /// A size in a range, or one other that means something else; `besides` says which, behind the range.
    fn size_bytes_or(
        &self,
        typed: &Option<Field<String>>,
        default: u64,
        allowed: &RangeInclusive<u64>,
        other: Option<u64>,
        besides: &str,
    ) -> Result<u64, Error> {
        let Some(field) = typed else { return Ok(default) };
        let bytes =
            units::parse_size_bytes(&field.value).map_err(|error| self.wrong(field, error.to_string()))?;
        if allowed.contains(&bytes) || other == Some(bytes) {
            return Ok(bytes);
        }
        let (min, max) =
            (units::format_size_bytes(*allowed.start()), units::format_size_bytes(*allowed.end()));
        Err(self.wrong(field, format!("must be {min} to {max}{besides}, is {}", field.value)))
    }

    fn name(&self, field: &Field<String>, max_chars: usize) -> Result<String, Error> {
        let chars = field.value.chars().count();
        if (1..=max_chars).contains(&chars) && !field.value.chars().any(char::is_control) {
            Ok(field.value.clone())
        } else {
            Err(self.wrong(field, format!("must be 1 to {max_chars} printable characters")))
        }
    }

    fn zone(&self, field: &Field<String>) -> Result<String, Error> {
        self.name(field, Config::MAX_ZONE_CHARS)
    }

    /// The node's port, which no node above it in `used` (port → line) may have.
    fn port(&self, node: &file::Node, key: &str, used: &mut BTreeMap<u16, usize>) -> Result<u16, Error> {
        let Some(field) = &node.port else {
            return Err(self.error(node.line, key, "is missing"));
        };
        let port = u16::try_from(field.value)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| self.wrong(field, format!("must be 1 to 65535, is {}", field.value)))?;
        match used.insert(port, field.line) {
            None => Ok(port),
            Some(line) => Err(self.wrong(field, format!("{port} is used twice, first on line {line}"))),
        }
    }
}

/// As much of a typed text as an error shows, on one line.
fn shown(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 40;
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect()
}

//! What a server's counts say when they are read twice.
//!
//! Knows: the names that `/metrics` has for them. Refuses to know: how they were asked for, and how
//! they are shown.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

/// All that was read at one time.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Counts by name, of each shard; those of the process are in the first place.
    counts: BTreeMap<String, Vec<f64>>,
    /// Turns by their length, of each shard: the longest that is counted there, and how many.
    turns: Vec<Vec<(f64, f64)>>,
    /// What runs: version, engine, ring.
    pub build: [String; 3],
    /// The connections that stand out.
    pub connections: Vec<Connection>,
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connection {
    /// What it is called.
    pub id: String,
    /// Who is at the other end.
    pub peer: String,
    /// What it is about.
    pub stage: String,
    /// Since when it is there.
    pub age_seconds: f64,
    /// Since when nothing has come from it.
    pub silent_seconds: f64,
    /// The memory that it holds.
    pub held_bytes: f64,
    /// What waits to be sent to it.
    pub queued_bytes: f64,
}

/// What happens on a shard, or on all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Which shard; `None`: all of them.
    pub shard: Option<usize>,
    /// It gives no sign of life.
    pub is_stalled: bool,
    /// Connections that are there.
    pub open: f64,
    /// Those that came, in a second.
    pub came: f64,
    /// Opening handshakes that ended well, in a second.
    pub handshakes: f64,
    /// And those that were refused.
    pub refused: f64,
    /// Messages that came, in a second.
    pub received: f64,
    /// Messages that were sent, in a second.
    pub sent: f64,
    /// Bytes of messages that came, in a second.
    pub received_bytes: f64,
    /// Bytes of messages that were sent, in a second.
    pub sent_bytes: f64,
    /// The share of its time that it works.
    pub busy: f64,
    /// The length of a turn that half of them do not exceed, in seconds, and 99 of 100.
    pub turn: Option<[f64; 2]>,
    /// Memory that connections hold.
    pub held_bytes: f64,
}

impl Reading {
    /// Reads what `/metrics` and `/connections` answer.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn of(metrics: &str, connections: &str) -> Result<Self, String> {
        let mut reading = Self::default();
        for line in metrics.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse::<f64>() else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            reading.take(name, labels, value);
        }
        if reading.build[0].is_empty() {
            return Err("it answers, but not as the admin side of a ringwire".to_owned());
        }
        let connections: Value = serde_json::from_str(connections)
            .map_err(|error| format!("it has no list of connections: {error}"))?;
        let seen = connections["connections"].as_array();
        reading.connections = seen.into_iter().flatten().map(connection).collect();
        Ok(reading)
    }

    fn take(&mut self, name: &str, labels: &str, value: f64) {
        let shard = label(labels, "shard").and_then(|shard| shard.parse::<usize>().ok());
        match name {
            "ringwire_build_info" => {
                let names = ["version", "engine", "ring"];
                self.build = names.map(|name| label(labels, name).unwrap_or("?").to_owned());
            }
            "ringwire_turn_seconds_bucket" => {
                let up_to = label(labels, "le").and_then(|le| le.parse().ok());
                if let (Some(shard), Some(up_to)) = (shard.filter(is_sane), up_to) {
                    if self.turns.len() <= shard {
                        self.turns.resize(shard + 1, Vec::new());
                    }
                    self.turns[shard].push((up_to, value));
                }
            }
            // Of the other distributions only sums are looked at.
            _ if name.ends_with("_bucket") => {}
            _ => {
                let shard = shard.unwrap_or(0);
                if is_sane(&shard) {
                    let values = self.counts.entry(name.to_owned()).or_default();
                    if values.len() <= shard {
                        values.resize(shard + 1, 0.0);
                    }
                    values[shard] += value;
                }
            }
        }
    }

    /// Of one shard, or of all together.
    pub fn count(&self, name: &str, shard: Option<usize>) -> f64 {
        let Some(values) = self.counts.get(name) else {
            return 0.0;
        };
        match shard {
            None => values.iter().sum(),
            Some(shard) => values.get(shard).copied().unwrap_or(0.0),
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.counts
            .get("ringwire_connections_open")
            .map_or(0, Vec::len)
    }

    /// What happened since an earlier reading: all shards together, then each.
    pub fn rows_since(&self, earlier: &Self, passed: Duration) -> Vec<Row> {
        let each = (0..self.shards()).map(Some);
        let all = [None].into_iter().chain(each);
        all.map(|shard| self.row_since(earlier, passed, shard))
            .collect()
    }

    fn row_since(&self, earlier: &Self, passed: Duration, shard: Option<usize>) -> Row {
        let now = |name: &str| self.count(&format!("ringwire_{name}"), shard);
        let seconds = passed.as_secs_f64().max(1e-3);
        // A server that was started anew counts from 0.
        let rate = |name: &str| {
            let before = earlier.count(&format!("ringwire_{name}"), shard);
            (now(name) - before).max(0.0) / seconds
        };
        let threads = if shard.is_none() {
            self.shards().max(1)
        } else {
            1
        };
        Row {
            shard,
            is_stalled: now("shard_stalled") > 0.0,
            open: now("connections_open"),
            came: rate("connections_total"),
            handshakes: rate("handshakes_total"),
            refused: rate("handshakes_refused_total"),
            received: rate("messages_received_total"),
            sent: rate("messages_sent_total"),
            received_bytes: rate("payload_received_bytes_total"),
            sent_bytes: rate("payload_sent_bytes_total"),
            busy: rate("turn_seconds_sum") / threads as f64,
            turn: self.turns_since(earlier, shard),
            held_bytes: now("memory_held_bytes"),
        }
    }

    /// The bounds below which half of the turns are, and 99 of 100.
    fn turns_since(&self, earlier: &Self, shard: Option<usize>) -> Option<[f64; 2]> {
        let none = Vec::new();
        let mut up_to: Vec<(f64, f64)> = Vec::new();
        let shards = match shard {
            None => 0..self.turns.len(),
            Some(shard) => shard..shard + 1,
        };
        for shard in shards {
            let before = earlier.turns.get(shard).unwrap_or(&none);
            for (at, &(bound, count)) in self.turns.get(shard)?.iter().enumerate() {
                let count = count - before.get(at).map_or(0.0, |it| it.1);
                match up_to.get_mut(at) {
                    Some(all) => all.1 += count.max(0.0),
                    None => up_to.push((bound, count.max(0.0))),
                }
            }
        }
        let all = up_to.last().filter(|it| it.1 > 0.0)?.1;
        let below = |share: f64| {
            let found = up_to.iter().find(|(_, count)| *count >= share * all);
            found.map_or(f64::INFINITY, |it| it.0)
        };
        Some([below(0.5), below(0.99)])
    }
}

/// Nobody has so many; a number is not to become memory.
fn is_sane(shard: &usize) -> bool {
    *shard < 1 << 16
}

/// The value of a label, which has no quotes in it here.
fn label<'l>(labels: &'l str, name: &str) -> Option<&'l str> {
    let pairs = labels.trim_end_matches('}').split(',');
    let mut found = pairs.filter_map(|pair| pair.split_once('='));
    let (_, value) = found.find(|(key, _)| *key == name)?;
    Some(value.trim_matches('"'))
}

fn connection(seen: &Value) -> Connection {
    let text = |key: &str| seen[key].as_str().unwrap_or("?").to_owned();
    let number = |key: &str| seen[key].as_f64().unwrap_or(0.0);
    Connection {
        id: text("id"),
        peer: text("peer"),
        stage: text("stage"),
        age_seconds: number("age_seconds"),
        silent_seconds: number("silent_seconds"),
        held_bytes: number("held_bytes"),
        queued_bytes: number("queued_bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILD: &str = "ringwire_build_info{version=\"1\",engine=\"shard\",ring=\"uring\"} 1\n";

    fn reading(metrics: &str) -> Reading {
        Reading::of(&format!("{BUILD}{metrics}"), "{\"connections\": []}").unwrap()
    }

    #[test]
    fn counters_become_rates_and_a_server_that_was_started_anew_has_none_below_0() {
        let count = |value: u64| {
            reading(&format!(
                "ringwire_connections_open{{shard=\"0\"}} 7\n\
                 ringwire_messages_received_total{{shard=\"0\"}} {value}\n\
                 ringwire_messages_received_total{{shard=\"1\"}} 0\n"
            ))
        };
        let rows = count(300).rows_since(&count(100), Duration::from_millis(500));
        assert_eq!(
            (rows[0].shard, rows[0].open, rows[0].received),
            (None, 7.0, 400.0)
        );
        assert_eq!((rows[1].shard, rows[1].received), (Some(0), 400.0));
        let rows = count(5).rows_since(&count(100), Duration::from_millis(500));
        assert_eq!(rows[0].received, 0.0);
    }

    #[test]
    fn turns_are_those_since_the_earlier_reading() {
        let turns = |short: u64, long: u64| {
            reading(&format!(
                "ringwire_connections_open{{shard=\"0\"}} 0\n\
                 ringwire_turn_seconds_bucket{{shard=\"0\",le=\"0.001\"}} {short}\n\
                 ringwire_turn_seconds_bucket{{shard=\"0\",le=\"+Inf\"}} {}\n",
                short + long
            ))
        };
        let row = |now: &Reading, before: &Reading| {
            now.rows_since(before, Duration::from_secs(1))[0].turn
        };
        assert_eq!(row(&turns(100, 9), &turns(0, 9)), Some([0.001, 0.001]));
        assert_eq!(
            row(&turns(98, 11), &turns(0, 9)),
            Some([0.001, f64::INFINITY])
        );
        assert_eq!(row(&turns(98, 11), &turns(98, 11)), None);
    }

    #[test]
    fn what_answers_something_else_is_no_admin_side() {
        for (metrics, connections) in [
            ("<html>hello</html>", "{}"),
            ("go_goroutines 7\n", "{}"),
            (BUILD, "<html>"),
        ] {
            assert!(Reading::of(metrics, connections).is_err(), "{metrics}");
        }
        // A number of a shard is a stranger's word.
        let reading = reading("ringwire_connections_open{shard=\"99999999999\"} 1\n");
        assert_eq!(reading.shards(), 0);
    }
}

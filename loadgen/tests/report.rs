//! Reports of modelled runs: what stands in them, and that others can read them.

mod report_sample;

use std::{collections::BTreeMap, fs, path::Path};

use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    },
};
use loadgen::{
    fail_if::FailIf,
    report::{
        Outputs, hgrm, hlog, html, json, junit,
        progress::{Live, Style, line},
        sheet::Sheet,
        summary, svg, table,
    },
    result::{
        FanoutFigures, IngestFigures, MemoryFigures, Objective, Phase, Progress, Run, Scenario,
        Search, SearchPoint, SearchStep, SizeShare, TextScript, VerdictKind,
    },
};
use report_sample::{Model, echo};
use serde_json::Value;

/// A run of each kind of report there is.
fn gallery() -> Vec<(&'static str, Run)> {
    let closed = echo(Model::default());
    let open = echo(Model {
        rate_per_s: Some(50_000.0),
        stall_ms: 200,
        ..Model::default()
    });
    let mut faulty = open.clone();
    faulty.target.url = "ws://127.0.0.1:9001/<b>&\"'".to_owned();
    faulty.messages.lost = 12;
    faulty.messages.corrupted = 1;
    faulty.connections.lost = 11;
    let reason = "the server closed with 1011 <internal error> & went away".to_owned();
    faulty.connections.lost_reasons.insert(reason, 11);
    faulty.slices[40].errors = 24;
    faulty.verdict.kind = VerdictKind::Faulty;
    faulty.verdict.reasons = vec!["12 messages were never answered.".to_owned()];
    faulty.times.interrupted = true;
    faulty.plan.text = Some(true);
    faulty.plan.text_script = Some(TextScript::Cjk);
    faulty.plan.fragment_bytes = Some(1024);
    faulty.plan.sizes = [(20, 0.45), (125, 0.45), (16_384, 0.1)]
        .map(|(size_bytes, share)| SizeShare { size_bytes, share })
        .to_vec();
    let mut bound = closed.clone();
    bound.verdict.kind = VerdictKind::ClientBound;
    bound.verdict.reasons = vec!["its busiest thread was busy for 99.8 % of the time.".to_owned()];
    bound.environment.release_build = false;
    let mut idle = closed.clone();
    idle.scenario = Scenario::Idle;
    idle.plan.text = None;
    idle.plan.verify = None;
    idle.latency.corrected_ns.reset();
    idle.latency.uncorrected_ns.reset();
    idle.slices
        .iter_mut()
        .for_each(|slice| slice.latency_ns.reset());
    idle.memory = Some(MemoryFigures {
        connections_held: 10_000,
        server_resident_per_connection_bytes: Some(272.0),
        client_resident_per_connection_bytes: 311.5,
        kernel_per_connection_bytes: Some(4_928.0),
        kernel_slab_growth_bytes: Some(49_280_000),
        kernel_tcp_growth_bytes: Some(0),
    });
    let mut fanout = open.clone();
    fanout.scenario = Scenario::Fanout;
    fanout.plan.publishers = Some(4);
    fanout.fanout = Some(FanoutFigures {
        publishers: 4,
        subscribers: 60,
        published: 10_000,
        expected: 600_000,
        delivered: 599_998,
        missing: 2,
        gaps: 2,
        ..FanoutFigures::default()
    });
    let mut ingest = closed.clone();
    ingest.scenario = Scenario::Ingest;
    ingest.latency.corrected_ns.reset();
    ingest.latency.uncorrected_ns.reset();
    ingest
        .slices
        .iter_mut()
        .for_each(|slice| slice.latency_ns.reset());
    ingest.ingest = Some(IngestFigures {
        frames_sent: 2_000_000,
        frames_measured: 1_800_000,
        server_messages: Some(2_000_000),
        server_payload_bytes: Some(128_000_000),
        confirmed_messages: 2_000_000,
        ..IngestFigures::default()
    });
    let mut saturate = open.clone();
    saturate.scenario = Scenario::Saturate;
    saturate.plan.objective = Some("p99.9=1ms".to_owned());
    let point = |rate_per_s: f64, p99_9_ns: u64, step, met| SearchPoint {
        rate_per_s,
        received_per_s: rate_per_s.min(131_000.0),
        p50_ns: p99_9_ns / 4,
        p99_ns: p99_9_ns / 2,
        p99_9_ns,
        objective_ns: p99_9_ns,
        max_ns: p99_9_ns * 3,
        step,
        met,
        client_bound: false,
    };
    saturate.search = Some(Search {
        objective: Objective {
            percentile: 99.9,
            latency_max_ns: 1_000_000,
        },
        rate_per_s: Some(80_000.0),
        ended: "the next step would be smaller than 2 %".to_owned(),
        points: vec![
            point(80_000.0, 420_000, SearchStep::Double, true),
            point(160_000.0, 812_000_000, SearchStep::Double, false),
            point(120_000.0, 2_400_000, SearchStep::Bisect, false),
            point(80_000.0, 431_000, SearchStep::Confirm, true),
        ],
    });
    vec![
        ("closed", closed),
        ("open", open),
        ("faulty", faulty),
        ("bound", bound),
        ("idle", idle),
        ("fanout", fanout),
        ("ingest", ingest),
        ("saturate", saturate),
    ]
}

/// The tables as they were looked at. `UPDATE_GOLDEN=1 cargo test` writes them anew, to be looked
/// at again.
#[test]
fn tables_are_as_they_were_looked_at() {
    for (name, run) in gallery() {
        let rendered = table::render(&run);
        let path = format!(
            "{}/tests/report_golden/{name}.txt",
            env!("CARGO_MANIFEST_DIR")
        );
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &rendered).expect("the golden table is written");
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(rendered, golden, "{name} differs from {path}");
    }
}

#[test]
fn tables_fit_eighty_columns() {
    for (name, run) in gallery() {
        for text in table::render(&run).lines() {
            assert!(text.chars().count() <= table::COLUMNS, "{name}: {text}");
            assert_eq!(text, text.trim_end(), "{name}");
        }
    }
}

#[test]
fn what_went_wrong_stands_before_the_figures() {
    let (_, faulty) = gallery().swap_remove(2);
    let table = table::render(&faulty);
    let place = |words: &str| {
        table
            .find(words)
            .unwrap_or_else(|| panic!("'{words}' is missing"))
    };
    assert!(place("12 messages lost") < place("p99.9"));
    assert!(place("lost (11): the server closed with 1011") < place("p99.9"));
    assert!(place("FAULTY: 12 messages were never answered.") > place("p99.9"));
    let words: Vec<&str> = table.split_whitespace().collect();
    let unfolded = words.join(" ");
    let measured = "after a warm-up of 1.00 s that is in no figure here; ended early by Ctrl-C";
    assert!(unfolded.contains(measured), "{table}");
}

#[test]
fn a_percentile_that_nothing_lies_above_is_not_told() {
    let mut run = echo(Model::default());
    run.latency.corrected_ns.reset();
    (0..500).for_each(|index| run.latency.corrected_ns.saturating_record(1000 + index));
    let table = table::render(&run);
    let row = |name: &str| {
        table
            .lines()
            .find(|line| line.trim_start().starts_with(name))
    };
    assert!(row("p99 ").is_some_and(|row| row.contains("µs")), "{table}");
    assert!(
        row("p99.9 ").is_some_and(|row| row.ends_with(" -")),
        "{table}"
    );
}

#[test]
fn json_comes_back_as_it_was() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("run.json");
    for (name, run) in gallery() {
        json::write(&run, &path).expect("the run is written");
        let back = json::read(&path).expect("the run is read");
        let value = |run: &Run| serde_json::to_value(run).expect("a run is JSON");
        assert_eq!(value(&back), value(&run), "{name}");
        assert_eq!(
            back.latency.corrected_ns, run.latency.corrected_ns,
            "{name}"
        );
    }
}

#[test]
fn json_of_another_version_is_refused_by_its_version() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("run.json");
    let refusal = |text: &str| {
        fs::write(&path, text).expect("the file is written");
        json::read(&path).expect_err("no run")
    };
    let other = r#"{"schema": "loadgen/0", "rate": 1}"#;
    assert!(refusal(other).contains("'loadgen/0'"), "{}", refusal(other));
    assert!(refusal("{}").contains("was not written by loadgen"));
    assert!(refusal("nothing").contains("is not JSON"));
    for known in ["loadgen/1", "loadgen/2"] {
        let said = refusal(&format!("{{\"schema\": \"{known}\"}}"));
        assert!(said.contains("is not a whole run"), "{said}");
    }
    // What an earlier loadgen wrote is read: what it did not know is left out.
    let mut before = serde_json::to_value(&gallery()[0].1).expect("a run is JSON");
    before["schema"] = Value::from("loadgen/1");
    for (of, name) in [
        ("messages", "cut_off"),
        ("messages", "unasked"),
        ("connections", "closed"),
        ("connections", "closed_reasons"),
        ("plan", "reply_timeout_ms"),
        ("plan", "stages"),
    ] {
        let object = before[of].as_object_mut().expect("an object");
        assert!(object.remove(name).is_some(), "{name}");
    }
    let whole = before.as_object_mut().expect("an object");
    whole.remove("fail_if");
    whole.remove("parts");
    fs::write(&path, before.to_string()).expect("the file is written");
    let read = json::read(&path).expect("a run of before");
    assert_eq!((read.connections.closed, read.messages.cut_off), (0, 0));
    assert!(json::read(Path::new("/nowhere/run.json")).is_err_and(|why| why.contains("/nowhere")));
}

#[test]
fn the_schema_describes_what_is_written() {
    let text = include_str!("../schema.json");
    let schema: Value = serde_json::from_str(text).expect("the schema is JSON");
    for (name, run) in gallery() {
        let value = serde_json::to_value(&run).expect("a run is JSON");
        let mut complaints = Vec::new();
        validate(
            &schema,
            &schema["$defs"]["Run"],
            &value,
            name,
            &mut complaints,
        );
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
    let mut wrong = serde_json::to_value(&gallery()[0].1).expect("a run is JSON");
    wrong["messages"]["sent"] = Value::from("many");
    wrong["times"]["minutes"] = Value::from(1);
    wrong["plan"]
        .as_object_mut()
        .expect("an object")
        .remove("shards");
    let mut complaints = Vec::new();
    validate(
        &schema,
        &schema["$defs"]["Run"],
        &wrong,
        "run",
        &mut complaints,
    );
    assert_eq!(complaints.len(), 3, "{complaints:#?}");
}

/// The part of JSON Schema that the schema uses.
fn validate(whole: &Value, schema: &Value, value: &Value, at: &str, complaints: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/$defs/");
        assert!(whole["$defs"][name].is_object(), "{name} is not defined");
        return validate(whole, &whole["$defs"][name], value, at, complaints);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let fits = choices.iter().any(|choice| {
            let mut failures = Vec::new();
            validate(whole, choice, value, at, &mut failures);
            failures.is_empty()
        });
        if !fits {
            complaints.push(format!("{at}: none of the choices fits {value}"));
        }
        return;
    }
    let constant = schema
        .get("const")
        .is_some_and(|constant| constant != value);
    let choices = schema["enum"]
        .as_array()
        .is_some_and(|choices| !choices.contains(value));
    let kind = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("number") => value.is_number(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some("null") => value.is_null(),
        Some(other) => panic!("{at}: the type {other}"),
        None => true,
    };
    let below = schema["minimum"]
        .as_f64()
        .is_some_and(|least| value.as_f64() < Some(least));
    if constant || choices || !kind || below {
        complaints.push(format!("{at}: {value}"));
        return;
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        validate(
            whole,
            &schema["items"],
            item,
            &format!("{at}[{index}]"),
            complaints,
        );
    }
    let Some(members) = value.as_object() else {
        return;
    };
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !members.contains_key(name) {
            complaints.push(format!("{at}.{name} is missing"));
        }
    }
    for (name, member) in members {
        let at = format!("{at}.{name}");
        match (
            schema["properties"].get(name),
            &schema["additionalProperties"],
        ) {
            (Some(property), _) => validate(whole, property, member, &at, complaints),
            (None, Value::Object(_)) => {
                validate(
                    whole,
                    &schema["additionalProperties"],
                    member,
                    &at,
                    complaints,
                );
            }
            (None, _) => complaints.push(format!("{at} is not described")),
        }
    }
}

#[test]
fn hgrm_has_the_plotters_columns_and_the_histograms_numbers() {
    let (_, run) = gallery().swap_remove(1);
    let histogram = &run.latency.corrected_ns;
    let text = hgrm::render(histogram);
    let mut points = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')).skip(2) {
        let cells: Vec<f64> = line
            .split_whitespace()
            .map(|cell| cell.parse().expect("a number"))
            .collect();
        let [value, quantile, count] = cells[..3] else {
            panic!("{line}");
        };
        let below = histogram.count_between(0, (value * 1e6).round() as u64);
        assert_eq!(below as f64, count, "{line}");
        assert!(quantile * histogram.len() as f64 <= count + 1e-6, "{line}");
        assert_eq!(cells.len(), if quantile < 1.0 { 4 } else { 3 }, "{line}");
        points.push((value, quantile));
    }
    assert!(points.is_sorted(), "{text}");
    assert_eq!(points.last(), Some(&(histogram.max() as f64 / 1e6, 1.0)));
    assert!(
        text.contains("#[Buckets =           26, SubBuckets     =         2048]\n"),
        "{text}"
    );
}

#[test]
fn hlog_is_read_back_by_slices() {
    for (name, run) in gallery() {
        let log = hlog::render(&run).expect("the log is made");
        let text = String::from_utf8(log.clone()).expect("the log is text");
        assert!(
            text.contains("\n#[Histogram log format version 1.3]\n"),
            "{name}"
        );
        let mut whole = loadgen::histogram::of_slice();
        let mut tags = BTreeMap::new();
        let mut starts = Vec::new();
        for entry in IntervalLogIterator::new(&log) {
            let LogEntry::Interval(interval) = entry.expect("an entry") else {
                continue;
            };
            let packed = base64::Engine::decode(
                &base64::engine::general_purpose::STANDARD,
                interval.encoded_histogram(),
            )
            .expect("base64");
            let histogram: Histogram<u64> = Deserializer::new()
                .deserialize(&mut packed.as_slice())
                .expect("a histogram");
            match interval.tag() {
                None => {
                    whole.add(&histogram).expect("equal bounds");
                    starts.push(interval.start_timestamp().as_millis() as u64);
                }
                Some(tag) => drop(tags.insert(tag.as_str().to_owned(), histogram)),
            }
        }
        let measured = run.slices.iter().filter(|slice| !slice.is_warmup);
        assert_eq!(
            starts,
            measured.map(|slice| slice.start_ms).collect::<Vec<_>>(),
            "{name}"
        );
        assert_eq!(whole.len(), run.latency.corrected_ns.len(), "{name}");
        assert_eq!(
            tags.get("handshake"),
            Some(&run.latency.handshake_ns),
            "{name}"
        );
        assert_eq!(
            tags.get("uncorrected"),
            run.latency
                .has_schedule
                .then_some(&run.latency.uncorrected_ns),
            "{name}"
        );
    }
}

#[test]
fn pages_are_well_formed_and_load_nothing() {
    for (name, run) in gallery() {
        let page = html::render(&run);
        well_formed(&page, name);
        assert!(
            page.contains("default-src 'none'; style-src 'unsafe-inline'"),
            "{name}"
        );
        for forbidden in [
            "<script", "<link", "<img", "src=", "href=", "url(", "@import", "style=\"",
        ] {
            assert!(!page.contains(forbidden), "{name}: {forbidden}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf,"), "{name}");
        for (_, value) in Sheet::new(&run).environment {
            assert!(page.contains(&svg::escape(&value)), "{name}: {value}");
        }
        let has_latency = !run.latency.corrected_ns.is_empty();
        assert_eq!(
            page.contains(">Latency by percentile<"),
            has_latency,
            "{name}"
        );
        assert_eq!(page.contains(">Latency over time<"), has_latency, "{name}");
        // A rate of nothing is no chart.
        let has_rate = run.scenario != Scenario::Idle;
        assert_eq!(page.contains(">Rate over time<"), has_rate, "{name}");
        assert_eq!(
            page.contains(">Latency by rate<"),
            run.search.is_some(),
            "{name}"
        );
    }
}

#[test]
fn text_from_outside_stays_text() {
    let (_, faulty) = gallery().swap_remove(2);
    let page = html::render(&faulty);
    assert!(page.contains("ws://127.0.0.1:9001/&lt;b&gt;&amp;&quot;&#39;"));
    assert!(page.contains("1011 &lt;internal error&gt; &amp; went away"));
    let mut braces = echo(Model::default());
    braces.target.url = "ws://127.0.0.1:9001/{environment}".to_owned();
    assert!(html::render(&braces).contains("<h1>echo against ws://127.0.0.1:9001/{environment}"));
}

#[test]
fn a_chart_alone_brings_its_own_colours() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("run.svg");
    svg::write(&gallery()[1].1, &path).expect("the chart is written");
    let chart = fs::read_to_string(&path).expect("the chart is read");
    well_formed(chart.split_once("?>").expect("an XML declaration").1, "svg");
    assert!(chart.contains("prefers-color-scheme: dark"));
    assert!(chart.contains(">uncorrected<") && chart.contains(">corrected<"));
    let (_, idle) = gallery().swap_remove(4);
    let refusal = svg::write(&idle, &path)
        .expect_err("no latencies")
        .to_string();
    assert!(
        refusal.contains("a run of idle has no latencies"),
        "{refusal}"
    );
}

/// A run with a bound that it kept and one that it did not, by a server with a name.
fn bounded() -> Run {
    let mut run = gallery().swap_remove(2).1;
    run.target.server_header = Some("a|b <c> & *d*".to_owned());
    for text in ["p50>1s", "p99<1us", "max>1ms"] {
        let bound: FailIf = text.parse().expect("a bound");
        let judged = bound.judge(&run);
        run.fail_if.push(judged);
    }
    run
}

#[test]
fn junit_has_a_case_for_the_verdict_and_each_bound() {
    let run = bounded();
    let xml = junit::render(&run);
    well_formed(xml.split_once("?>").expect("an XML declaration").1, "junit");
    assert!(
        xml.contains("tests=\"4\" failures=\"2\" errors=\"0\""),
        "{xml}"
    );
    assert!(xml.contains("timestamp=\"2027-01-01T00:00:00Z\""), "{xml}");
    assert_eq!(xml.matches("<failure").count(), 2, "{xml}");
    assert!(xml.contains("name=\"fail-if max&gt;1ms\""), "{xml}");
    assert!(xml.contains("wants at most 1.00 ms"), "{xml}");
    let sound = junit::render(&gallery()[0].1);
    assert!(sound.contains("tests=\"1\" failures=\"0\""), "{sound}");
    // What was not measured is an error and no failure.
    let error = junit::render_error("echo", "nobody <listens> there");
    well_formed(
        error.split_once("?>").expect("an XML declaration").1,
        "error",
    );
    assert!(error.contains("failures=\"0\" errors=\"1\""), "{error}");
    assert!(error.contains("nobody &lt;listens&gt; there"), "{error}");
}

#[test]
fn a_summary_has_what_matters_and_no_markup_from_outside() {
    let text = summary::render(&bounded());
    assert!(
        text.starts_with("### loadgen: echo against ws://127.0.0.1:9001/\\<b\\>"),
        "{text}"
    );
    assert!(
        text.contains("**Faulty**: 12 messages were never answered."),
        "{text}"
    );
    assert!(text.contains("(a\\|b \\<c\\> &amp; \\*d\\*)"), "{text}");
    assert!(
        text.contains("| rate | p50 | p99 | p99.9 | max |"),
        "{text}"
    );
    assert!(text.contains("- kept: p50 was 350 µs"), "{text}");
    assert!(text.contains("- **failed**: max was 200 ms"), "{text}");
    for (name, run) in gallery() {
        let text = summary::render(&run);
        assert!(
            !text.contains("NaN") && text.ends_with("\n\n"),
            "{name}: {text}"
        );
    }
}

#[test]
fn bounds_stand_behind_the_verdict() {
    let run = bounded();
    let table = table::render(&run);
    let words: Vec<&str> = table.split_whitespace().collect();
    let text = words.join(" ");
    let place = |words: &str| {
        text.find(words)
            .unwrap_or_else(|| panic!("'{words}' in {text}"))
    };
    assert!(place("FAULTY:") < place("kept: p50 was 350 µs, as --fail-if 'p50>1s' wants"));
    assert!(place("kept:") < place("FAILED: max was 200 ms, and --fail-if 'max>1ms' wants"));
    let page = html::render(&run);
    well_formed(&page, "bounded");
    assert!(page.contains("<b>Failed:</b> max was 200 ms"), "{page}");
}

/// The numbers of all attributes of this name.
fn numbers(text: &str, attribute: &str) -> Vec<f64> {
    let before = format!(" {attribute}=\"");
    let parts = text.split(&before).skip(1);
    parts
        .filter_map(|rest| rest.split('"').next()?.parse().ok())
        .collect()
}

#[test]
fn the_name_of_the_warm_up_is_crossed_by_nothing() {
    let run = gallery().swap_remove(1).1;
    let chart = svg::rate_over_time(&run, svg::WIDE).expect("a chart");
    let (before, _) = chart.split_once(">warm-up<").expect("a warm-up");
    let (_, label) = before.rsplit_once("<text").expect("a label");
    let base = svg::WIDE.height - 40.0;
    assert!(numbers(label, "y")[0] > base, "{label}");
}

#[test]
fn a_search_has_one_point_of_its_line_for_each_rate() {
    let (_, mut run) = gallery().swap_remove(7);
    let search = run.search.as_mut().expect("a search");
    search.points[1].client_bound = true;
    let chart = svg::search(&run, svg::NARROW).expect("a chart");
    let (_, line) = chart.split_once("class=\"line c0\" d=\"").expect("a line");
    let path = line.split('"').next().unwrap_or_default();
    let xs: Vec<&str> = path
        .split(['M', 'L'])
        .filter_map(|point| point.split(' ').next())
        .filter(|x| !x.is_empty())
        .collect();
    let mut distinct = xs.clone();
    distinct.dedup();
    // Three rates, and one of them is the generator's: no point of the server's.
    assert_eq!((xs.len(), distinct.len()), (2, 2), "{path}");
    let bound = chart.matches("class=\"bound\"").count();
    assert_eq!(bound, 2, "the point and its key: {chart}");
    assert!(chart.contains(">client-bound<"));
}

#[test]
fn a_long_url_is_whole_below_and_short_in_the_title() {
    let mut run = echo(Model::default());
    run.target.url = format!("wss://gateway.example.com/{}end", "a-long-path/".repeat(30));
    let sheet = Sheet::new(&run);
    assert!(sheet.title.chars().count() < 100, "{}", sheet.title);
    assert!(sheet.title.contains("wss://gateway.example.com/") && sheet.title.contains("/end"));
    let whole = sheet.environment.iter().find(|(name, _)| *name == "url");
    assert_eq!(whole.map(|(_, url)| url), Some(&run.target.url));
}

#[test]
fn who_hears_nothing_is_told_while_it_runs() {
    let silent = Progress {
        nothing_came: true,
        ..progress()
    };
    let shown = line(&silent, 80);
    assert!(shown.contains("nothing comes back"), "{shown}");
    assert!(!shown.contains("no errors"), "{shown}");
    // However narrow the terminal is.
    assert!(line(&silent, 40).contains("nothing comes back"));
}

/// Every element is closed in its order, attributes are quoted, and nothing is left over: enough of
/// XML to be read by an XML parser, but for HTML's void elements.
fn well_formed(page: &str, name: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        let is_style = open.last() == Some(&"style");
        assert!(
            is_style || !text.contains('>'),
            "{name}: a stray > in {text}"
        );
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").expect("a comment ends").1;
            continue;
        }
        let (tag, after) = rest.split_once('>').expect("a tag ends");
        rest = after;
        if tag.starts_with('!') {
            continue;
        }
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{name}: </{closed}>");
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{name}: <{tag}>");
        let element = tag.split([' ', '/', '\n']).next().unwrap_or_default();
        if !tag.ends_with('/') && element != "meta" {
            open.push(element);
        }
    }
    assert!(open.is_empty(), "{name}: {open:?} is not closed");
}

fn progress() -> Progress {
    Progress {
        phase: Phase::Measuring,
        note: None,
        elapsed_ms: 3_000,
        remaining_ms: Some(6_400),
        connections_open: 64,
        connections_asked: 64,
        rate_per_s: 183_402.0,
        rate_asked_per_s: None,
        payload_bytes_per_s: 11_737_728.0,
        p50_ns: Some(118_000),
        p99_ns: Some(240_000),
        errors: 0,
        nothing_came: false,
        client_busy_share: None,
    }
}

#[test]
fn a_narrow_terminal_loses_the_least_important_fields_whole() {
    let errors = Progress {
        errors: 3,
        ..progress()
    };
    let whole = "measuring  7 s left  183 k/s  p50 118 µs  p99 240 µs  no errors  11.2 MiB/s  \
                 64 of 64 open";
    assert_eq!(line(&progress(), 200), whole);
    assert_eq!(
        line(&progress(), 79),
        "measuring  7 s left  183 k/s  p50 118 µs  p99 240 µs  no errors  64 of 64 open"
    );
    assert_eq!(line(&errors, 40), "measuring  7 s left  183 k/s  3 errors");
    assert_eq!(line(&errors, 20), "measuring  3 errors");
    assert_eq!(line(&errors, 5), "measu");
    for columns in 0..120 {
        assert!(line(&errors, columns).chars().count() <= columns);
    }
}

#[test]
fn a_terminal_gets_one_line_that_is_rewritten() {
    let mut stream = Vec::new();
    let mut live = Live::new(&mut stream, Style::Rewritten, || Some(40));
    live.show(&progress());
    live.show(&progress());
    drop(live);
    let text = String::from_utf8(stream).expect("text");
    assert!(!text.contains('\n'));
    let pieces: Vec<&str> = text.split("\r\u{1b}[K").collect();
    assert_eq!(pieces.len(), 4, "{text:?}");
    assert!(pieces[1].chars().count() < 40, "{text:?}");
    assert_eq!(
        [pieces[0], pieces[3]],
        ["", ""],
        "the line is cleared at the end"
    );
}

#[test]
fn a_file_gets_a_line_a_second() {
    let mut stream = Vec::new();
    let mut live = Live::new(&mut stream, Style::Lines, || None);
    for quarter in 0..12 {
        live.show(&Progress {
            elapsed_ms: quarter * 250,
            ..progress()
        });
    }
    live.show(&Progress {
        phase: Phase::Draining,
        elapsed_ms: 2_750,
        ..progress()
    });
    drop(live);
    let text = String::from_utf8(stream).expect("text");
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
}

#[test]
fn quiet_is_quiet() {
    let mut stream = Vec::new();
    let mut live = Live::new(&mut stream, Style::Quiet, || None);
    live.show(&progress());
    drop(live);
    assert!(stream.is_empty());
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = Some(folder.path().join("run"));
    let refusal = |outputs: Outputs| outputs.check().expect_err("refused").to_string();
    let twice = Outputs {
        json: file.clone(),
        html: file.clone(),
        ..Outputs::default()
    };
    assert!(refusal(twice).contains("two formats"));
    let nowhere = Outputs {
        svg: Some(folder.path().join("missing/run.svg")),
        ..Outputs::default()
    };
    assert!(refusal(nowhere).contains("its folder does not exist"));
    let a_folder = Outputs {
        hgrm: Some(folder.path().to_owned()),
        ..Outputs::default()
    };
    assert!(refusal(a_folder).contains("a file is needed"));
    let fine = Outputs {
        json: file,
        ..Outputs::default()
    };
    fine.check().expect("a file in a folder that is there");
}

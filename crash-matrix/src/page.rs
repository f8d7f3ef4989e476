//! Results as one page that needs nothing else: the grid, whose cells open what is known about them.

use crate::grid::{figures, rows, totals};
use crate::record::{Record, Verdict};
use crate::words;
use handoff_tests::history::percentile;
use std::fmt::Write as _;

const STYLE: &str = "
body{font:14px/1.45 system-ui,sans-serif;margin:2rem;color:#1b1f24;background:#fff;max-width:110rem}
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}
.tot b{font-size:1.4rem;margin-right:.3rem}.tot span{margin-right:1.6rem}
table{border-collapse:collapse}.fig td{padding:.15rem .9rem .15rem 0}.fig td+td{text-align:right}
.grid th{font-weight:500;text-align:left}.grid thead th{height:8.5rem;vertical-align:bottom;padding:0 2px}
.grid thead th div{writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap}
.grid tbody th{font:12px ui-monospace,monospace;padding-right:.8rem;white-space:nowrap}
.grid td{padding:1px}.grid button{vertical-align:middle;display:block;width:22px;height:16px;border:0;border-radius:3px;cursor:pointer;padding:0;font:11px monospace;color:#fff}
.green{background:#2da44e}.red{background:#cf222e}.unreached{background:#8c959f}.flaky{background:#bf8700}
.grid button:hover,.grid button:focus{outline:2px solid #0969da}
.rS{color:#8250df}.rO{color:#0969da}.rN{color:#1a7f37}
.grid tr.part th{padding-top:.8rem;font:600 13px system-ui,sans-serif}
.wrap{display:flex;gap:2rem;align-items:flex-start}
#box{position:sticky;top:1rem;flex:1;min-width:30rem;border:1px solid #d0d7de;border-radius:6px;padding:.8rem 1rem;max-height:92vh;overflow:auto}
#box pre{white-space:pre-wrap;font:12px/1.4 ui-monospace,monospace;background:#f6f8fa;padding:.6rem;border-radius:6px}
code{font:12px ui-monospace,monospace}.key button{pointer-events:none;width:16px;height:12px;border:0;border-radius:3px}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}#box{border-color:#30363d}#box pre{background:#161b22}}
";

const SCRIPT: &str = "
const box=document.getElementById('box');
function show(n){const c=CELLS[n];box.replaceChildren();
 const add=(t,x)=>{const e=document.createElement(t);e.textContent=x;box.append(e);return e};
 add('h2',c.id);add('p',c.outcome+(c.code===null?'':', exit code '+c.code)+(c.served_by?', '+c.served_by+' serves':'')+
  (c.answer_ms===null?'':', first answer after '+c.answer_ms+' ms')+(c.pause_ms===null?'':', longest pause '+c.pause_ms+' ms')+
  (c.adopted_ms===null?'':', adopted in '+c.adopted_ms+' ms')+', '+(c.duration_ms/1000).toFixed(1)+' s, try '+c.tries);
 for(const v of c.violations){add('h2',v.oracle+' is broken');add('pre',v.what)}
 add('h2','What is done');add('pre',c.words);
 add('h2','Who came by where');add('pre',c.trace.join('\\n'));
 add('h2','See it again');add('pre',\"crash-matrix repro '\"+c.id+\"' --trace\");location.hash=c.id}
document.addEventListener('click',e=>{const b=e.target.closest('[data-n]');if(b)show(+b.dataset.n)});
const at=CELLS.findIndex(c=>c.id===decodeURIComponent(location.hash.slice(1)));
const red=CELLS.findIndex(c=>c.outcome==='red');show(at>=0?at:red>=0?red:0);
";

/// The page.
#[must_use]
pub fn html(records: &[Record]) -> String {
    let mut out =
        String::from("<!doctype html><html lang=en><meta charset=utf-8><title>Crash matrix</title>");
    let _ = write!(out, "<meta name=viewport content='width=device-width'><style>{STYLE}</style>");
    out.push_str(
        "<h1>Crash matrix</h1><p>Every role of an upgrade (<span class=rS>S, the supervisor</span>, <span \
         class=rO>O, the old server</span>, <span class=rN>N, the new one</span>) is struck at every step, under load.</p>",
    );
    let [green, red, unreached, flaky] = totals(records);
    let _ = write!(
        out,
        "<p class=tot><span><b>{green}</b>green</span><span><b>{red}</b>red</span><span><b>{unreached}</b>unreached\
         </span><span><b>{flaky}</b>flaky</span></p><table class=fig><tr><td><td>cells<td>p50<td>p99<td>max</tr>"
    );
    for (what, times) in figures(records) {
        let at = |percent| percentile(&times, percent).unwrap_or(f64::NAN);
        let (cells, p50, p99, max) = (times.len(), at(50.0), at(99.0), at(100.0));
        let what = escaped(&what);
        let _ = write!(out, "<tr><td>{what}<td>{cells}<td>{p50:.1} ms<td>{p99:.1} ms<td>{max:.1} ms</tr>");
    }
    out.push_str("</table><p class=key>");
    for (class, words) in [
        ("green", "everything held"),
        ("red", "a promise was broken"),
        ("unreached", "nobody came by"),
        ("flaky", "in time only alone"),
    ] {
        let _ = write!(out, "<button class={class} tabindex=-1></button> {words} &emsp;");
    }
    out.push_str("</p><div class=wrap>");
    grid(&mut out, records);
    out.push_str("<div id=box></div></div><script>const CELLS=[");
    for record in records {
        // a script ends at the first end tag, also inside of a string
        let _ = write!(out, "{},", object(record).to_string().replace('<', "\\u003c"));
    }
    let _ = write!(out, "];{SCRIPT}</script></html>");
    out
}

fn grid(out: &mut String, records: &[Record]) {
    let (columns, rows) = rows(records);
    out.push_str("<table class=grid><thead><tr><th></th>");
    for column in &columns {
        let _ = write!(out, "<th><div>{}</div></th>", escaped(column));
    }
    out.push_str("</tr></thead><tbody>");
    let mut two = false;
    for row in &rows {
        if row.name.contains(" + ") && !two {
            two = true;
            out.push_str("<tr class=part><th>Two faults</th></tr>");
        }
        let role = row.name.chars().next().unwrap_or_default();
        let _ = write!(out, "<tr><th class=r{role}>{}</th>", escaped(&row.name));
        for column in &columns {
            out.push_str("<td>");
            if let Some(record) = row.cells.get(column) {
                let n = records.iter().position(|other| other.id == record.id).unwrap_or(0);
                let (class, glyph) = match record.outcome {
                    Verdict::Green => ("green", ""),
                    Verdict::Red => ("red", "!"),
                    Verdict::Unreached => ("unreached", "?"),
                    Verdict::Flaky => ("flaky", "~"),
                };
                let id = escaped(&record.id);
                let _ = write!(
                    out,
                    "<button class={class} data-n={n} title='{id}' aria-label='{id}: {class}'>{glyph}</button>"
                );
            }
            out.push_str("</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table>");
}

fn object(record: &Record) -> serde_json::Value {
    let mut object = serde_json::to_value(record).expect("strings and numbers");
    object["words"] = record.id.parse().map(|cell| words::explain(&cell)).unwrap_or_default().into();
    object
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_escapes_what_it_shows() {
        let record: Record = serde_json::from_str(
            r#"{"id":"S.send.Begin.after/kill9/load/v1-1-1","outcome":"red","code":12,"served_by":"O",
            "violations":[{"oracle":"O1","what":"</script><b>"}],"pause_ms":1.5,"answer_ms":null,"adopted_ms":2.0,
            "duration_ms":3.0,"tries":1,"trace":[]}"#,
        )
        .expect("a record");
        let page = html(&[record]);
        assert_eq!(page.matches("</script>").count(), 1);
        assert!(page.contains("S.send.Begin.after"));
    }
}

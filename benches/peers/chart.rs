//! The chart: CPU per request of every server, a group of bars for each mode, the program's part and the kernel's in two
//! shades. It follows the reader's light or dark.

use std::fmt::Write as _;

use crate::report::Table;

const WIDTH: f64 = 760.0;
/// Where bars begin; names stand left of it.
const LEFT: f64 = 110.0;
/// Room for figures right of the longest bar.
const RIGHT: f64 = 150.0;
const BAR: f64 = 14.0;
const STEP: f64 = 20.0;
const HEADING: f64 = 30.0;
const TOP: f64 = 40.0;

const STYLE: &str = "<style>
  text { font: 12px system-ui, sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .faint { fill: #59636e; }
  .user { fill: #8c959f; } .system { fill: #d1d9e0; }
  .own .user { fill: #0a7d43; } .own .system { fill: #8fd3ad; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .faint { fill: #9198a1; }
    .user { fill: #9198a1; } .system { fill: #3d444d; }
    .own .user { fill: #3fb950; } .own .system { fill: #1a5c2e; }
  }
</style>
";

/// Draws those of `tables` that tell CPU per request.
pub fn draw(tables: &[Table]) -> String {
    let drawn: Vec<&Table> = tables.iter().filter(|table| is_drawn(table)).collect();
    let rows: usize = drawn.iter().map(|table| table.rows.len()).sum();
    let height = TOP + rows as f64 * STEP + drawn.len() as f64 * HEADING + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"CPU time per request of each server, by kind of load\">\n{STYLE}"
    );
    let _ = writeln!(
        svg,
        "<text x=\"8\" y=\"22\" class=\"faint\">CPU µs per request: the program's own part (dark), and the kernel's for it \
         (light). Shorter is better.</text>"
    );
    let mut y = TOP;
    for table in drawn {
        y += HEADING;
        let _ = writeln!(svg, "<text x=\"8\" y=\"{}\" class=\"title\">{}</text>", y - 8.0, table.title());
        y = group(&mut svg, table, y);
    }
    svg + "</svg>\n"
}

fn is_drawn(table: &Table) -> bool {
    !matches!(table.mode, "entries" | "cores") && table.rows.iter().any(|row| table.cell(row, "CPU µs").is_some())
}

/// Draws the bars of a table, on a scale of its own, from `y` down; tells where it ends.
fn group(svg: &mut String, table: &Table, mut y: f64) -> f64 {
    let figures = |row| Some((table.cell(row, "CPU µs")?, table.cell(row, "user")?));
    let longest = table.rows.iter().filter_map(figures).map(|(cpu, _)| cpu).fold(f64::MIN_POSITIVE, f64::max);
    for row in &table.rows {
        let Some((cpu, user)) = figures(row) else { continue };
        let scale = (WIDTH - LEFT - RIGHT) / longest;
        let (split, end) = (LEFT + user * scale, LEFT + cpu * scale);
        let class = if row.name == "ticketgate" { "own" } else { "peer" };
        let _ = writeln!(
            svg,
            "<g class=\"{class}\"><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect class=\"user\" x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\"/>\
             <rect class=\"system\" x=\"{split:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{cpu:.1} = {user:.1} + {:.1}</text></g>",
            LEFT - 8.0,
            y + 11.0,
            row.name,
            split - LEFT,
            end - split,
            end + 8.0,
            y + 11.0,
            cpu - user,
        );
        y += STEP;
    }
    y
}

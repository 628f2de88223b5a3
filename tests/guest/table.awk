# Figures of the scenario `compare` to a table: a row a job, a column a subject, and the ratios that matter. Of a figure
# that was taken more than once the best counts.
$1 == "figure" {
    figure = ($3 ~ /256k$/) ? $5 : $4
    if (!(($2, $3) in value) || figure > value[$2, $3]) { value[$2, $3] = figure; p99[$2, $3] = $6 }
    if (!($3 in seen)) { seen[$3] = 1; job[++jobs] = $3 }
}
function cell(subject, name) { return (subject SUBSEP name) in value ? value[subject, name] : "-" }
function ratio(a, b) { return (a == "-" || b == "-" || b == 0) ? "-" : sprintf("%.2f", a / b) }
function least(a, b) { return a == "-" ? b : b == "-" ? a : a < b ? a : b }
END {
    format = "%-17s %9s %9s %9s %9s %10s %9s %9s %9s %9s\n"
    printf format, "job", "member", "null", "striate", "md-tuned", "md-default", "md-bitmap", "/md-tuned", "/ceiling", "p99 us"
    for (i = 1; i <= jobs; i++) {
        name = job[i]
        ours = cell("striate", name)
        printf format, name, cell("member", name), cell("null", name), ours, cell("md-tuned", name), cell("md-default", name),
            cell("md-bitmap", name), ratio(ours, cell("md-tuned", name)), ratio(ours, least(cell("null", name), cell("member", name))),
            ((("striate" SUBSEP name) in p99) ? p99["striate", name] : "-")
    }
    name = "randread-4k"
    printf "\n%s, a member lost: striate %s, md-tuned %s (%s); while it is rebuilt: striate %s\n", name, cell("striate-degraded", name),
        cell("md-tuned-degraded", name), ratio(cell("striate-degraded", name), cell("md-tuned-degraded", name)), cell("striate-rebuild", name)
}

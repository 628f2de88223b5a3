# What `table.awk` and `plot.awk` both read: lines `figure SUBJECT JOB IOPS MIB_PER_S P99_US` of the scenario `compare`.
#
# A figure is taken in several rounds, all subjects of a job one after the other in each. Of a figure the best round counts; of
# two subjects the median over the rounds of their ratio, since what slows the host for a minute slows both.
$1 == "figure" {
    figure = ($3 ~ /256k$/) ? $5 : $4
    round = ++rounds[$2, $3]
    taken[$2, $3, round] = figure
    if (!(($2, $3) in value) || figure > value[$2, $3]) { value[$2, $3] = figure; p99[$2, $3] = $6 }
    if (!($3 in seen)) { seen[$3] = 1; job[++jobs] = $3 }
}
function cell(subject, name) { return (subject SUBSEP name) in value ? value[subject, name] : "-" }
# times(A, B, JOB): A as a multiple of B; "-" where one of them was not measured.
function times(a, b, name,    count, i, j, ratio, sorted) {
    count = 0
    for (i = 1; i <= rounds[a, name] && i <= rounds[b, name]; i++) {
        if (taken[b, name, i] == 0) continue
        ratio = taken[a, name, i] / taken[b, name, i]
        for (j = count++; j > 0 && sorted[j] > ratio; j--) sorted[j + 1] = sorted[j]
        sorted[j + 1] = ratio
    }
    if (count == 0) return "-"
    return sprintf("%.2f", (sorted[int((count + 1) / 2)] + sorted[int(count / 2) + 1]) / 2)
}

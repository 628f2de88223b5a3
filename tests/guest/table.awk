# Figures of the scenario `compare` to a table: a row a job, a column a subject, and the ratios that matter.
# awk -f figures.awk -f table.awk
END {
    format = "%-17s %9s %9s %9s %9s %10s %9s %9s %10s %9s %9s %9s\n"
    printf format, "job", "member", "null", "striate", "md-tuned", "md-default", "md-bitmap", "/md-tuned", "/md-bitmap",
        "/null", "/member", "p99 us"
    for (i = 1; i <= jobs; i++) {
        name = job[i]
        printf format, name, cell("member", name), cell("null", name), cell("striate", name), cell("md-tuned", name),
            cell("md-default", name), cell("md-bitmap", name), times("striate", "md-tuned", name), times("striate", "md-bitmap", name),
            times("striate", "null", name), times("striate", "member", name),
            ((("striate" SUBSEP name) in p99) ? p99["striate", name] : "-")
    }
    name = "randread-4k"
    if (("rublk-null" SUBSEP name) in value)
        printf "\nour null target beside rublk's: reads %s (%s), writes %s (%s), write-256k %s (%s)\n",
            cell("rublk-null", name), times("null", "rublk-null", name),
            cell("rublk-null", "randwrite-4k"), times("null", "rublk-null", "randwrite-4k"),
            cell("rublk-null", "write-256k"), times("null", "rublk-null", "write-256k")
    printf "\n%s, a member lost: striate %s, md-tuned %s (%s); while it is rebuilt: striate %s\n", name, cell("striate-degraded", name),
        cell("md-tuned-degraded", name), times("striate-degraded", "md-tuned-degraded", name), cell("striate-rebuild", name)
}

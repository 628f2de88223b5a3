# Figures of the scenario `compare` to a plot (SVG): for each job, striate as a multiple of tuned md.
# awk -f figures.awk -f plot.awk
END {
    row = 30; left = 150; width = 620; top = 56; most = 1.5
    for (i = 1; i <= jobs; i++) {
        ratio = times("striate", "md-tuned", job[i])
        if (ratio == "-") continue
        shown[++count] = job[i]
        length_of[count] = ratio
        if (ratio > most) most = ratio
    }
    scale = (width - left - 60) / most
    height = top + count * row + 30
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"13\">\n", width, height
    print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    print "<text x=\"10\" y=\"22\" font-size=\"15\">Striate by ublk, as a multiple of tuned Linux md RAID-5</text>"
    print "<text x=\"10\" y=\"40\" fill=\"#666\">same boot, same RAM disks, 2 emulated CPUs: ratios only (make compare)</text>"
    for (i = 1; i <= count; i++) {
        y = top + (i - 1) * row
        printf "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left - 8, y + 15, shown[i]
        printf "<rect x=\"%d\" y=\"%d\" width=\"%.0f\" height=\"20\" fill=\"%s\"/>\n", left, y, length_of[i] * scale, (length_of[i] >= 1 ? "#2a7f62" : "#b5651d")
        printf "<text x=\"%.0f\" y=\"%d\">%.2f</text>\n", left + length_of[i] * scale + 6, y + 15, length_of[i]
    }
    printf "<line x1=\"%.0f\" y1=\"%d\" x2=\"%.0f\" y2=\"%d\" stroke=\"#333\" stroke-dasharray=\"4 3\"/>\n", left + scale, top - 6, left + scale, height - 24
    printf "<text x=\"%.0f\" y=\"%d\" text-anchor=\"middle\" fill=\"#333\">md = 1</text>\n</svg>\n", left + scale, height - 8
}

# Reads the output of test runs with --report-time and prints the 20 slowest tests, and the sum of the
# tests over 5 s by subject (the first part of their name) with their stated reasons. Writes the output of each failed
# test to a file below the directory `failed`. `costs` names a file with lines "test TAB reason".

BEGIN {
    FS = "\t"
    while ((getline line < costs) > 0)
        state(line)
}

# Takes a line "test TAB reason".
function state(line,    cost) {
    split(line, cost, "\t")
    if (index(reason[cost[1]], cost[2]) == 0)
        reason[cost[1]] = reason[cost[1]] (reason[cost[1]] == "" ? "" : "; ") cost[2]
}

# The lab has a file of its own, which it prints.
/^cost: / { state(substr($0, 7)) }

/^test .* \.\.\. (ok|FAILED) <[0-9.]+s>$/ {
    split($0, word, " ")
    name = word[2]
    seconds = $0
    sub(/.*</, "", seconds)
    sub(/s>$/, "", seconds)
    if (seconds + 0 > took[name] + 0)
        took[name] = seconds + 0
}

# What a failed test has printed, up to the next one's or the list of names.
/^---- .* stdout ----$/ {
    if (out != "")
        close(out)
    split($0, word, " ")
    if (made++ == 0)
        system("mkdir -p '" failed "'")
    out = failed "/" word[2] ".log"
}
/^(failures:|test result: )/ { out = "" }
out != "" { print > out }

END {
    count = 0
    for (name in took)
        order[++count] = name
    for (i = 2; i <= count; i++) {
        name = order[i]
        for (j = i - 1; j >= 1 && took[order[j]] < took[name]; j--)
            order[j + 1] = order[j]
        order[j + 1] = name
    }
    if (count == 0)
        exit
    printf "\n=== slowest tests, of %d\n", count
    for (i = 1; i <= count && i <= 20; i++)
        printf "%7.1f s  %s\n", took[order[i]], order[i]
    printf "\n=== tests over 5 s, by subject\n"
    for (i = 1; i <= count && took[order[i]] > 5; i++) {
        name = order[i]
        subject = name
        sub(/::.*/, "", subject)
        if (!(subject in sum))
            subjects[++kinds] = subject
        sum[subject] += took[name]
        tests[subject]++
        if (reason[name] == "") {
            unstated[++without] = name
            continue
        }
        parts = split(reason[name], part, "; ")
        for (j = 1; j <= parts; j++)
            if (index(why[subject], part[j]) == 0)
                why[subject] = why[subject] (why[subject] == "" ? "" : "; ") part[j]
    }
    for (i = 1; i <= kinds; i++) {
        subject = subjects[i]
        printf "%7.1f s  %s: %d test%s%s\n", sum[subject], subject, tests[subject],
            tests[subject] == 1 ? "" : "s", why[subject] == "" ? "" : "; slow: " why[subject]
    }
    for (i = 1; i <= without; i++)
        printf "over 5 s without a reason (cost::slow): %s\n", unstated[i]
}

"""What `bench` is given."""

from .case import refused


def use(name, words, where, got, expected, kind=2):
    """Words that are refused before anything is measured."""
    return refused(name, f"bench {words}", where, got, expected, kind=kind)


CASES = [
    use("a benchmark of no samples", "--batch-size 128 0", "--batch-size: ", "got .128, 0", "st 1"),
    use("a benchmark of padding alone", "--num-items 1", "--num-items: ", "got .1", "at least 2"),
    use("a benchmark without rounds", "--rounds 0", "--rounds: ", "got 0", "at least 1"),
    use("a benchmark in no time", "--seconds 0", "--seconds: ", "got 0", "more than 0"),
    use("a benchmark in NaN seconds", "--seconds nan", "seconds: ", "got nan", "a number"),
    use("a benchmark without users", "--users 0", "--users: ", "got 0", "at least 1"),
    use("fewer users than samples", "--users 5", "--users: ", "got 5", "batch size, 128"),
    use("a benchmark beside nobody known", "--peers some", "peers", "some", "all.*eager.*none"),
    use("a benchmark larger than memory", "--num-items 9000000000", "--num-items", "GiB", "at mo"),
    use("a benchmark's result in a .txt", "--out a.txt", "--out: ", "got 'a.txt'", "in .json"),
    use("a benchmark's picture in a .jpg", "--picture a.jpg", "--picture: ", "'a.jpg'", "in .png"),
    use("a benchmark's result nowhere", "--out no/a.json", "no: ", "no such", "one for --out", 1),
    use("a benchmark with -1 threads", "--threads -1", "--threads: ", "got -1", "0 to 1024"),
]

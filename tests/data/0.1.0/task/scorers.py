"""The scorer of the task."""


def same(example, output):
    return float(str(output) == str(example.target))

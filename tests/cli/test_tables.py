from slab_det.cli import markdown_table, print_table


def test_columns_are_aligned_and_not_folded_in_a_file(capsys):
    print_table(('part', 'number'), [('a', '1'), ('b' * 120, '[2]')])
    head, rule, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ['part', 'number'] and not rule.strip('─ -')
    assert first.split() == ['a', '1'] and second.split() == ['b' * 120, '[2]']
    assert len(head) == len(first) == len(second)


def test_markdown_names_the_side_of_each_column():
    assert markdown_table(('a', 'b', 'c'), [('1', '2', '3')]).splitlines() == [
        '| a | b | c |',
        '| --- | ---: | ---: |',
        '| 1 | 2 | 3 |',
    ]
    assert markdown_table(('a', 'b'), [], 'rl').splitlines()[1] == '| ---: | --- |'

"""What jinja2 3.1.6 renders in transformers' environment, by its language's parts.

usage: make_jinja.py OUT.json

OUT.json is an array, an entry a line:

    {"name": "section-N", "template": text, "context": {...} (unless empty), "text": rendered}

with {"error": class} in the place of the text where jinja2 or Python raises.
"""

import json
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent / "support"))

from template_sweep import environment  # noqa: E402

VALUES = [
    "none", "nope", "''", "'a'", "'A b'", "0", "3", "1.5", "4.0", "true", "[]", "[1]", "()", "{}", "{'a': 1}",
    "range(2)", "namespace()", "{}.items()", "([1]|map('string'))", "range", "('a'|safe)",
]  # fmt: skip
TESTS = [
    "defined", "undefined", "none", "boolean", "true", "false", "integer", "float", "number", "string",
    "mapping", "iterable", "sequence", "callable", "escaped", "lower", "upper", "odd", "even",
    "divisibleby 3", "divisibleby(0)", "sameas none", "sameas true", "eq 0", "equalto 'a'", "== true", "ne 1",
    "!= 'a'", "lt 2", "lessthan 'b'", "< 2", "le 0", "gt 0", "greaterthan 'A'", "> 0", "ge 1.5", ">= 1", "<= 3",
    "in [0, 'a', none, []]", "in 'abc'", "in {'a': 1}", "in 5", "in nope", "filter", "test", "not none",
]  # fmt: skip

# Of each line the expressions, which ";;" separates, are rendered as one template, with "|" between
# them. Those that raise get templates of their own.
EXPRESSIONS = {}

EXPRESSIONS["tests"] = r"""
'upper' is filter ;; 'nosuch' is filter ;; 'odd' is test ;; 'nosuch' is test ;; '==' is test
3 is not odd ;; not 3 is odd ;; 1 is odd and 2 is even ;; 4 is divisibleby 2 is true
-3 is odd ;; 3.0 is odd ;; 2.5 is even ;; true is odd ;; 9 is divisibleby num=3 ;; 7.5 is divisibleby 2.5
2 is divisibleby ;; 2 is divisibleby(1, 2) ;; 2 is defined(1) ;; 2 is nosuch ;; 2 is eq ;; 2 is none 3
nope.a is defined ;; {}.a is defined ;; {'a': none}.a is defined ;; [][0] is defined ;; ''.nosuch is undefined
1 is sameas 1.0 ;; 1 is eq 1.0 ;; true is eq 1 ;; '1' is eq 1 ;; none is eq nope ;; nope is eq nope2 ;; [1] is eq (1,)
1 is integer ;; true is integer ;; 2**70 is integer ;; 1 is true ;; true is number ;; 1.0 is integer
x is string ;; x is mapping ;; loop is defined ;; self is defined ;; 'a' is in 'abc' ;; 'a' is in(['a'])
1 is integer + 1 ;; (1 is integer) + 1 ;; 5 is gt 3 and 2 ;; 5 is gt -3 ;; 'ab' is eq 'a' ~ 'b'
'a1' is lower ;; '1' is lower ;; 'ß' is lower ;; 'ǅ' is lower ;; 'ǅ' is upper ;; 1 is upper ;; true is upper
"""

EXPRESSIONS["filters"] = r"""
-3|abs ;; -3.5|abs ;; true|abs ;; (-0.0)|abs ;; 'a'|abs ;; nope|abs ;; none|abs ;; [1]|abs
1|nosuch ;; 1|abs(2) ;; 1|abs(x=2) ;; 'a'|upper(1)
{'a': 1}|attr('items') is callable ;; {'a': 1}|attr('a') ;; 'a'|attr('nosuch') is defined ;; 'a'|attr('__class__') ;; 'a'|attr()
[1,2,3,4,5]|batch(2)|list ;; [1,2,3,4,5]|batch(2, 0)|list ;; [1,2,3]|batch(linecount=2, fill_with='x')|list ;; []|batch(2)|list ;; 'abc'|batch(2)|list ;; [1,2,3,4]|batch(2, 0)|list
[1]|batch ;; [1]|batch('a')|list ;; 5|batch(2)|list ;; [1,2]|batch(0)|list
'hELLO wORLD'|capitalize ;; ''|capitalize ;; 12|capitalize ;; 'ßa'|capitalize ;; 'ǆa'|capitalize ;; none|capitalize ;; nope|capitalize ;; [1, 'A']|capitalize
'ab'|center(5) ~ '.' ;; 'ab'|center(width=6) ~ '.' ;; 'abc'|center(6) ~ '.' ;; 'ab'|center(1) ;; 12|center(5) ~ '.' ;; ('a'|center)|length ;; 'ab'|center(7) ~ '.'
'ab'|center('x') ;; 'ab'|center(5, '*') ;; 'ab'|center(2.5)
nope|default('x') ;; nope|default ;; none|default('x') ;; none|default('x', true) ;; ''|default('x') ;; ''|default('x', true) ;; 0|d(5, boolean=true) ;; {}.a|default(1) ;; nope|d(default_value='y') ;; nope.a.b|default('z') ;; false|d('f')
nope|default('x', true, 1) ;; nope|default(foo='x')
{'b': 1, 'a': 2}|dictsort ;; {'b': 1, 'A': 2, 'a': 0}|dictsort ;; {'b': 1, 'A': 2}|dictsort(true) ;; {'b': 1, 'a': 2}|dictsort(by='value') ;; {'b': 1, 'a': 2}|dictsort(false, 'key', true) ;; {'b': 1, 'a': 2}|dictsort(reverse=true) ;; {}|dictsort ;; {'a': 'B', 'b': 'a'}|dictsort(by='value') ;; {2: 0, 1: 0}|dictsort
{'b': 1}|dictsort(by='x') ;; [1]|dictsort ;; {'b': 1, 2: 3}|dictsort ;; nope|dictsort ;; {'a': none, 'b': 1}|dictsort(by='value')
'<a href="x">\'&'|escape ;; '<'|e ;; '<'|e|e ;; '<'|forceescape ;; '<'|e|forceescape ;; 1|e ;; none|e ;; nope|e ;; ['<']|e ;; '<'|safe ;; '<'|safe|e ;; ('<'|e) ~ '<' ;; ('<'|e) + '<' ;; '<' + ('>'|safe) ;; '<' ~ '>'|safe
('<'|safe)|string is escaped ;; ['<'|safe] ;; ('a'|safe).upper() is escaped ;; ('%s'|safe) % '<' ;; ('{}'|safe).format('<') ;; ('a'|safe) * 2 is escaped ;; ('a,b'|safe).split(',') ;; ('-'|safe).join(['<', '>']) ;; ['<', '>'|safe]|join('&') ;; ('a'|safe)[0] is escaped ;; ('a'|safe)|upper|e ;; ('a'|safe) == 'a' ;; {'a': 1}['a'|safe] ;; ('<b>'|safe)|replace('b', '<') ;; '<b>'|replace('b', '<'|safe) ;; ('<b>'|safe)|trim|e ;; '<'|safe|tojson
1000|filesizeformat ;; 1|filesizeformat ;; 0|filesizeformat ;; 999|filesizeformat ;; 1500000|filesizeformat ;; 1024|filesizeformat(true) ;; 1048576|filesizeformat(binary=true) ;; '5000'|filesizeformat ;; 1.5|filesizeformat ;; 10**30|filesizeformat ;; -5000|filesizeformat ;; 1023|filesizeformat(true)
'a'|filesizeformat ;; none|filesizeformat ;; nope|filesizeformat
[1,2]|first ;; 'abc'|first ;; []|first ;; []|first is defined ;; {'a': 1}|first ;; range(3)|first ;; ''|first|default('d') ;; ([3]|map('string'))|first ;; nope|first ;; {}.items()|first is undefined
5|first ;; none|first ;; [1]|first(2)
[1,2]|last ;; 'abc'|last ;; []|last is defined ;; {'a': 1, 'b': 2}|last ;; range(3)|last ;; {'a': 1}.items()|last
5|last ;; ([1]|map('string'))|last ;; nope|last ;; none|last
'3.7'|float ;; 'x'|float ;; 'x'|float(1.5) ;; none|float ;; nope|float ;; ' 1e3 '|float ;; true|float ;; 'inf'|float ;; '-nan'|float ;; '1_0'|float ;; 'x'|float(default='d') ;; [1]|float ;; 3|float ;; ''|float(none) ;; '１２'|float ;; 2**70|float
10**400|float
'3.7'|int ;; 'x'|int ;; 'x'|int(7) ;; none|int ;; nope|int ;; ' 42 '|int ;; true|int ;; '0x1f'|int ;; '0x1f'|int(0, 16) ;; '1f'|int(base=16) ;; '101'|int(base=2) ;; '0b11'|int(base=0) ;; 3.99|int ;; -3.99|int ;; '1e3'|int ;; '1_000'|int ;; [1]|int ;; 'inf'|float|int ;; 'x'|int(default='q') ;; 'z'|int(base=36) ;; 1e20|int ;; '-0'|int ;; '+5'|int ;; '٣'|int ;; '12abc'|int(9)
'9'|int(base=1) ;; 'inf'|int ;; '9'|int(base='a') ;; 'nan'|int ;; '9'|int(base=99)
'%s-%d'|format('a', 5) ;; '%(x)s'|format(x=1) ;; '%s'|format([1]) ;; 'a'|format ;; '%5.2f|'|format(3.14159) ;; '%%'|format ;; 5|format ;; '%s'|format(none)
'%s'|format ;; 'a'|format(1) ;; '%(x)s'|format(y=1) ;; '%s %(a)s'|format(1, a=2) ;; '%d'|format('a')
[{'a': 1, 'b': 2}, {'a': 1, 'b': 3}, {'a': 0, 'b': 4}]|groupby('a') ;; [{'a': 'B'}, {'a': 'b'}]|groupby('a')|length ;; [{'a': 'B'}, {'a': 'b'}]|groupby('a', case_sensitive=true)|map('first')|list ;; [{'a': 1}, {}]|groupby('a', 0) ;; [{'a': {'c': 1}}]|groupby('a.c') ;; [[1, 2], [1, 3]]|groupby(0) ;; ([{'a': 1}]|groupby('a'))[0].grouper ;; ([{'a': 1}]|groupby('a'))[0].list ;; []|groupby('a') ;; [{'a': 'B'}, {'a': 'a'}, {'a': 'b'}]|groupby(attribute='a')
[{'a': 1}, {}]|groupby('a') ;; [{'a': 1}, {'a': 'x'}]|groupby('a') ;; [1]|groupby ;; 5|groupby('a')
'a\nb\n\nc'|indent ;; 'a\nb'|indent(2) ;; 'a\nb'|indent(2, true) ;; 'a\n\nb'|indent(2, blank=true) ;; 'a\nb'|indent('> ') ;; 'a\nb\n'|indent(width=1, first=true) ;; ''|indent ;; 'a'|indent(first=true) ;; 'a\r\nb\x0bc\u2028d'|indent(2) ;; '\n\na'|indent(2) ;; 'a\n \nb'|indent(2) ;; 'a\n\n'|indent(2, true, true) ;; ('<\na'|safe)|indent(2, true)
5|indent ;; none|indent ;; 'a'|indent(2.5) ;; 'a'|indent(indentfirst=true) ;; nope|indent
[1,'a',none,2.0]|join ;; [1,2]|join(',') ;; [1,2]|join(d='-') ;; [{'a': 1}, {'a': 2}]|join(',', attribute='a') ;; [{'a': 1}, {'a': 2}]|join(',', 'a') ;; 'abc'|join('.') ;; []|join(',') ;; {'a': 1, 'b': 2}|join(',') ;; [[1], {}]|join(' ') ;; [1,2]|join(0) ;; [nope, 1]|join(',') ;; nope|join(',') ;; ([1,2]|map('string'))|join ;; [true, false]|join('/') ;; [{'a': {'b': 5}}]|join('', 'a.b') ;; [1]|join(none) ;; [1,2]|join(none)
5|join ;; none|join(',') ;; [1]|join(',', 'a', 3) ;; [1]|join(',', 'a')
[1,2]|length ;; 'añ😀'|length ;; {'a': 1}|length ;; range(5)|count ;; nope|length ;; {}.items()|length ;; ()|length ;; ('a'|safe)|length
5|length ;; none|length ;; ([1]|map('string'))|length ;; [1]|length(2) ;; namespace(a=1)|length
'abc'|list ;; {'a': 1}|list ;; {'a': 1}.items()|list ;; (1,2)|list ;; range(3)|list ;; nope|list ;; ''|list ;; ('ab'|safe)|list
5|list ;; none|list ;; namespace(a=1)|list
'ABC İ Σ'|lower ;; 'AΣ'|lower ;; 5|lower ;; none|lower ;; nope|lower ;; ['A']|lower ;; 'abc ß ŉ'|upper ;; true|upper ;; [1,'a']|upper ;; 'ﬁ'|upper
[1,2]|map('string')|list ;; ['a','b']|map('upper')|join ;; [{'a': 1}, {'b': 2}]|map(attribute='a')|list ;; [{'a': 1}, {}]|map(attribute='a', default=0)|list ;; [[1,2],[3]]|map('first')|list ;; ['1','x']|map('int', 5)|list ;; ['a b']|map('replace', ' ', '_')|list ;; [[1,2],[3,4]]|map(attribute=1)|list ;; [{'a': {'b': 3}}]|map(attribute='a.b')|list ;; [[{'x': 1}]]|map(attribute='0.x')|list ;; [[1,2]]|map('join', d='-')|list ;; {'a': 1}|map('upper')|list ;; 'ab'|map('upper')|list ;; nope|map('upper')|list ;; []|map('upper')|list ;; [3, 1]|map('default', 5)|list ;; [{'a': none}]|map(attribute='a', default=0)|list
[1]|map|list ;; [1]|map('nosuch')|list ;; [1]|map(attribute='a', foo=1)|list ;; 5|map('string')|list ;; ['a']|map('abs')|list ;; []|map('nosuch')|list ;; [1]|map(5)|list ;; [{}]|map(attribute='a.b')|list ;; [1]|map('string', attribute='a')|list ;; [1]|map(default=3)|list
[3,1,2]|max ;; [3,1,2]|min ;; ['b','A']|min ;; ['b','A']|max ;; ['b','A']|min(true) ;; [{'a': 2}, {'a': 1}]|min(attribute='a') ;; []|max ;; []|min is undefined ;; 'hello'|max ;; {'a': 1, 'b': 2}|max ;; ['a','B']|max(case_sensitive=true) ;; [1, 1.0, true]|max ;; [1, 1.0, true]|min ;; [[1,2],[1,3]]|max ;; nope|max
[1,'a']|max ;; 5|max ;; [none, 1]|min ;; [{}, {}]|max ;; [{'a': 1}, {}]|max(attribute='a') ;; [none]|min
[1,2,3,4]|select('odd')|list ;; [0,1,'',none,'a']|select|list ;; [1,2,3]|select('gt', 1)|list ;; [1,2,3]|select('>', 2)|list ;; [0,1]|reject|list ;; [1,2,3]|reject('odd')|list ;; ['a','b']|select('in', 'abc')|list ;; ['a','b']|reject('eq', 'a')|list ;; {'a': 1}|select('string')|list ;; [1,2,3,4]|select('divisibleby', num=2)|list ;; nope|select|list ;; [nope, 1]|select('defined')|list
[1]|select('nosuch')|list ;; 5|select|list ;; [1]|select('gt')|list ;; ['a']|select('odd')|list ;; [1]|select(odd)|list ;; [1]|reject('in', 5)|list
[{'a': 1}, {'a': 0}, {}]|selectattr('a')|list ;; [{'a': 1}, {'a': 2}]|selectattr('a', 'eq', 2)|list ;; [{'a': 1}, {}]|selectattr('a', 'defined')|list ;; [{'a': 1}, {'a': 2}]|rejectattr('a', 'equalto', 1)|list ;; [{'a': 1}, {}]|rejectattr('a')|list ;; [{'a': {'b': 1}}]|selectattr('a.b')|list ;; [[0,1],[1,0]]|selectattr(0)|list ;; [{'a': 'x'}]|selectattr('a', 'in', ['x'])|list ;; [{'a': none}]|selectattr('a', 'none')|list ;; []|selectattr('a')|list ;; [{}, {'a': 1}]|rejectattr('a', 'undefined')|list
[{}]|selectattr|list ;; [{}]|selectattr('a.b')|list ;; [{'a': 1}]|selectattr('a', 'nosuch')|list ;; [{}]|selectattr('a', 'gt', 1)|list ;; 5|selectattr('a')|list ;; [none]|selectattr('a')|list ;; [1]|selectattr('a')|list
'aXbX'|replace('X', 'y') ;; 'aXbX'|replace('X', 'y', 1) ;; 'aaa'|replace('a', 'b', count=2) ;; 'abc'|replace('', '-') ;; 123|replace(2, 'x') ;; 123|replace('2', 5) ;; none|replace('None', 'x') ;; 'a'|replace(old='a', new='b') ;; 'aaa'|replace('a', 'b', 0) ;; 'aaa'|replace('a', 'b', -1) ;; [1, 2]|replace('1', 'x') ;; nope|replace('a', 'b') ;; 'abc'|replace('', '-', 2) ;; 'aNoneb'|replace(none, '')
'a'|replace ;; 'a'|replace('a') ;; 'a'|replace('a', 'b', 'c') ;; 'a'|replace('a', 'b', 1.5) ;; 'a'|replace('a', 'b', none)
[1,2]|reverse|list ;; 'abc'|reverse ;; {'a': 1, 'b': 2}|reverse|list ;; range(3)|reverse|list ;; (1,2)|reverse|list ;; 'aé😀'|reverse ;; ([1, 2]|map('string'))|reverse|list ;; nope|reverse|list ;; ''|reverse ;; {'a': 1, 'b': 2}.items()|reverse|list
5|reverse ;; none|reverse
2.5|round ;; 3.5|round ;; 2.567|round(2) ;; 2.5|round(0, 'ceil') ;; 2.5|round(method='floor') ;; -2.5|round ;; 42|round ;; 1234|round(-2) ;; 2.675|round(2) ;; 0.5|round ;; 1.25|round(1) ;; -2.5|round(0, 'floor') ;; 42.55|round(1, 'floor') ;; 42.51|round(1, 'ceil') ;; true|round ;; 1e300|round(5) ;; 1234.5|round(-2) ;; 15|round(-1) ;; 25|round(-1) ;; 7|round(0, 'floor') ;; 42.5|round|int ;; -0.4|round ;; 1234|round(-2, 'floor') ;; 5e-324|round(323)
'a'|round ;; none|round ;; 2.5|round(0, 'x') ;; 2.5|round('a') ;; nope|round ;; 2.5|round(1.5) ;; 'inf'|float|round(0, 'ceil')
[1,2,3,4,5]|slice(2)|list ;; [1,2,3,4,5]|slice(3, 'x')|list ;; []|slice(2)|list ;; 'abcd'|slice(3)|list ;; [1,2,3,4,5,6]|slice(4, fill_with=0)|list ;; [1,2,3]|slice(slices=5)|list ;; [1,2,3]|slice(5, '-')|list ;; [1,2]|slice(2, 0)|list
[1]|slice(0)|list ;; [1]|slice|list ;; 5|slice(2)|list ;; [1]|slice('a')|list ;; [1, 2]|slice(-1)|list
[3,1,2]|sort ;; [3,1,2]|sort(true) ;; [3,1,2]|sort(reverse=true) ;; ['b','A','a','B']|sort ;; ['b','A','a','B']|sort(case_sensitive=true) ;; [{'a': 2, 'b': 1}, {'a': 1, 'b': 2}]|sort(attribute='a') ;; [{'a': 1, 'b': 2}, {'a': 1, 'b': 1}]|sort(attribute='a,b') ;; 'hello'|sort ;; {'b': 1, 'a': 2}|sort ;; [[2,1],[1,2]]|sort(attribute=1) ;; [true, 0, 0.5]|sort ;; []|sort ;; [(1,'b'),(1,'a')]|sort ;; ['b','A','a','B']|sort(true, true) ;; ['a','A','a']|sort(reverse=true) ;; nope|sort ;; [[1, 2], [1]]|sort
[1,'a']|sort ;; [none,1]|sort ;; 5|sort ;; [{'a': 1}, {}]|sort(attribute='a') ;; [{}, {}]|sort ;; [nope, 1]|sort ;; [none]|sort
5|string ;; none|string ;; [1,'a']|string ;; 1.0|string ;; true|string ;; nope|string ;; {'a': none}|string ;; (1,)|string|length
[1,2,3]|sum ;; [1.5,2]|sum ;; [1]|sum(start=10) ;; [{'a': 1}, {'a': 2}]|sum('a') ;; [{'a': 1}]|sum(attribute='a', start=5) ;; []|sum ;; [true, true]|sum ;; [[1],[2]]|sum(start=[]) ;; [0.1]*3|sum ;; ([0.1]*10)|sum ;; [1, 2]|sum(none, 3) ;; range(4)|sum ;; nope|sum ;; [{'a': {'b': 2}}]|sum('a.b')
['a']|sum ;; ['a']|sum(start='') ;; 5|sum ;; [none]|sum ;; [{}]|sum('a') ;; [1, nope]|sum
'hello wORLD'|title ;; "it's a-b (c) [d] {e} <f>"|title ;; 5|title ;; ''|title ;; 'a_b c\td\ne'|title ;; 'ß ǆ'|title ;; 'x1y 2z'|title ;; nope|title ;; 'ÀB éCOLE'|title ;; "a.b,c/d"|title
'  a \n'|trim ~ '.' ;; 'xxaxx'|trim('x') ;; 'abcba'|trim('ab') ;; 5|trim ;; '\xa0a\u2003\x1f'|trim|length ;; 'a'|trim(chars='a') ;; ' a '|trim(none) ~ '.' ;; nope|trim ;; 'a '|trim('') ~ '.' ;; '\ufeff\u200b a'|trim|length ;; none|trim ;; ' a'|safe|trim is escaped
'a'|trim(5) ;; 'a'|trim('a', 'b')
'Hello World foo bar'|truncate(12) ;; 'Hello World foo bar'|truncate(12, true) ;; 'Hello World foo bar'|truncate(9, false, '…', 0) ;; 'Hello World'|truncate(9) ;; 'Hello World'|truncate(5, leeway=0) ;; 'Hello World'|truncate(length=8, killwords=true, leeway=0) ;; 'Hello World'|truncate(8, end='', leeway=0) ;; 'Hello'|truncate(3, true, '...', 0) ;; 'Hello World'|truncate(6, true, '..', 5) ;; ('ab ' * 100)|truncate ;; 'Helloworldxyz'|truncate(5, false, '...', 0)
'Hello World'|truncate(2, leeway=0) ;; 5|truncate ;; none|truncate ;; 'Hello World'|truncate('a') ;; nope|truncate
[1,2,1,'a','A','a']|unique|list ;; ['a','A']|unique(true)|list ;; [{'a': 1}, {'a': 1, 'b': 2}]|unique(attribute='a')|list ;; 'Hello'|unique|list ;; [1, 1.0, true]|unique|list ;; []|unique|list ;; [none, none]|unique|list ;; nope|unique|list ;; [(1,), (1,)]|unique|list ;; [nope, nope2]|unique|list|length
[[1], [1]]|unique|list ;; 5|unique|list ;; [{}]|unique|list
'a b&c/d?é'|urlencode ;; {'a': 1, 'b c': 'd&e'}|urlencode ;; [('a', 'b'), ('c', 5)]|urlencode ;; 5|urlencode ;; ''|urlencode ;; '~_.-'|urlencode ;; none|urlencode ;; nope|urlencode ;; '"\'!*()+'|urlencode ;; {}|urlencode ;; {'a/b': '/'}|urlencode
[1]|urlencode ;; ['ab']|urlencode
'hello world  foo'|wordcount ;; ''|wordcount ;; "it's a-b"|wordcount ;; 5|wordcount ;; 'é_1 ü'|wordcount ;; '中文 字'|wordcount ;; nope|wordcount
{'a': 1}|items|list ;; nope|items|list ;; {}|items|list ;; {'b': 1, 'a': [2]}|items|list
[1]|items|list ;; none|items|list ;; 'a'|items|list
'a'|upper|lower|title ;; 'a'|upper() ;; -1|abs ;; (-1)|abs ;; 2 + -3|abs ;; 2 * 3|string ;; 'a' ~ 1|string|length ;; 'a'|upper == 'A' ;; not ''|length ;; 'ab'|upper[0] ;; ('ab'|upper)[0] ;; ('ab'|upper).lower() ;; 'ab'|first.x ;; 2**3|string ;; 2**-1|abs
'a'|upper.lower() ;; 'a'| upper ;; 'a' |upper| lower ;; 1|default|string|int + 1 ;; [3,1]|sort|first|string ~ 'x' ;; 'a'|replace(*['a', 'b']) ;; 'a'|replace(**{'old': 'a', 'new': 'c'}) ;; 'a'|replace('a', **{'new': 'd'}) ;; 'a'|replace('a', old='b', new='c') ;; 'a'|5 ;; 'a'|'upper' ;; 'a'|
"""

EXPRESSIONS["tojson"] = r"""
{'a': [1, 2.5, true, none], 'b': 'x'}|tojson ;; 'é😀"\\\n\t\x01\x7f\u2028</script>'|tojson ;; 'é😀'|tojson(ensure_ascii=true) ;; [1,[2,{'a':3}],{},[]]|tojson(indent=2) ;; {'b': 1, 'a': 2}|tojson(sort_keys=true) ;; [1,{'a':2}]|tojson(separators=(',', ':')) ;; (1,2)|tojson ;; {1: 2, none: 3, true: 4, 1.5: 5}|tojson ;; '<'|tojson ;; none|tojson ;; 1e16|tojson ;; 1e-7|tojson ;; -0.0|tojson ;; 2**70|tojson ;; 1.0|tojson
[1,2]|tojson(indent=0) ;; [1,2]|tojson(indent='--') ;; [1,{'a':[]}]|tojson(true) ;; [1]|tojson(indent=none) ;; {'a': 1}|tojson(indent=1, separators=(' ;', ' = ')) ;; [1e400, -1e400]|tojson ;; 'a'|tojson(indent=4) ;; {'a': 'é'}|tojson(false, 4) ;; [[], {}, '']|tojson(indent=1) ;; '\ufeff\x00\x1f\b\f'|tojson ;; []|tojson(indent=-1) ;; [1, 2]|tojson(indent=-1) ;; [1, 2]|tojson(none, true)
nope|tojson ;; [nope]|tojson ;; range(2)|tojson ;; namespace()|tojson ;; {(1, 2): 3}|tojson ;; {1: 2, 'a': 3}|tojson(sort_keys=true) ;; {}.items()|tojson ;; 'a'|tojson(foo=1) ;; [1]|tojson(indent=1.5) ;; [1]|tojson(separators=',') ;; [1]|map('string')|tojson ;; range|tojson
"""

EXPRESSIONS["globals"] = r"""
range(3)|list ;; range(1, 4)|list ;; range(5, 0, -2)|list ;; range(0)|list ;; range(3) ;; range(1, 7, 2) ;; range(10)[2:5] ;; range(10)[::-3] ;; range(5)[-1] ;; range(3)|length ;; 2 in range(3) ;; 2.0 in range(3) ;; 'a' in range(3) ;; range(2) == range(0, 2) ;; range(0, 3, 2) == range(0, 4, 2) ;; range(5).index(3) ;; range(5).count(3) ;; range(1, 9, 3).step ;; range(1, 9, 3).stop ;; range(true)|list ;; range(-3)|list ;; range(3) == [0, 1, 2]
range() ;; range('a') ;; range(1.5) ;; range(1, 2, 0) ;; range(100001) ;; range(1, 2, 3, 4) ;; range(stop=3) ;; range(5)[7] ;; range(5)[7] is defined ;; range(3) + [1] ;; range(100000)|length ;; range(2).index(5) ;; range(none) ;; range(nope)
dict(a=1, b=2) ;; dict({'a': 1}, b=2) ;; dict([('a', 1), ['b', 2]]) ;; dict() ;; dict({'a': 1}, a=3) ;; dict.fromkeys(['a', 'b']) ;; dict.fromkeys('ab', 0) ;; dict(['ab', 'cd']) ;; dict(**{'x y': 1}) ;; dict({'a': 1}.items())
dict(1) ;; dict([1]) ;; dict({}, {}) ;; dict(['abc']) ;; dict.fromkeys() ;; dict.nosuch is defined ;; dict(nope) ;; dict([([], 1)])
namespace(a=1).a ;; namespace({'a': 2}).a ;; namespace(a=1) ;; namespace({'a': 1}, b=2) ;; namespace().x is defined ;; namespace(a=1)['a'] ;; namespace() ;; namespace([('a', 1)]).a ;; namespace(a=[1]).a[0] ;; namespace(a=1) == namespace(a=1) ;; namespace(items=3).items ;; namespace(a=1).get is defined
namespace(_a=1) ;; namespace(1) ;; namespace({'_a': 1}) ;; namespace()._a is defined ;; namespace(a=1).get('a') ;; namespace(a=1).items() ;; 'a' in namespace(a=1) ;; namespace(nope)
cycler('a', 'b').next() ;; cycler('a', 'b').current ;; cycler(1, 2).items ;; cycler(1, 2).pos ;; cycler() ;; joiner(',')() ;; joiner()()|length ;; joiner(sep='-')() ;; joiner(1, 2) ;; cycler('a')() ;; cycler(a=1)
raise_exception('x') ;; raise_exception() ;; strftime_now('%Y-%m-%d') ;; strftime_now('%d %b %Y %H:%M:%S %A %j %%') ;; strftime_now() ;; strftime_now(5) ;; nosuch() ;; 5() ;; 'a'() ;; none() ;; range is callable ;; range is defined ;; true() ;; [1](0) ;; {}.get.x is defined ;; ''.upper is callable
"""

EXPRESSIONS["operators"] = r"""
7 // 2 ;; -7 // 2 ;; 7 // -2 ;; 7.5 // 2 ;; -7.5 // 2 ;; 7 % 3 ;; -7 % 3 ;; 7 % -3 ;; -7.5 % 2 ;; 7.5 % -2 ;; 7 / 2 ;; 6 / 2 ;; -6 / 4 ;; 0 // 5 ;; -0.0 // 1 ;; 1e20 // 3 ;; 5 % 5.0 ;; -1 % 1e20 ;; 1 // 0.1 ;; 1 % 0.1 ;; 0.0 % -3
1 / 0 ;; 1 // 0 ;; 1 % 0 ;; 1.0 / 0 ;; 1.0 // 0 ;; 1.0 % 0.0 ;; 0 ** -1 ;; 0.0 ** -1 ;; 10.0 ** 400 ;; 10 ** 400 / 1 ;; 10 ** 400 * 1.0
2 ** 3 ;; 2 ** -1 ;; -2 ** 2 ;; (-2) ** 2 ;; (-2) ** 3 ;; 2 ** 3 ** 2 ;; 2 ** 0.5 ;; 0 ** 0 ;; 2 ** 70 ;; (-2) ** -3 ;; 2.0 ** 3 ;; 1.5 ** 2 ;; 2 ** true ;; -2 ** -2 ;; (-8) ** (1/3) is number ;; 10 ** 20
1 + 2 * 3 ;; (1 + 2) * 3 ;; 10 - 2 - 3 ;; 2 * 3 % 4 ;; -5 + 2 ;; - - 5 ;; +5 ;; -true ;; +true ;; 1 - -1 ;; 2 * -3 ;; 0.1 + 0.2 ;; 1 + 1.0 ;; true + true ;; true * 3 ;; 1 + true ;; 100 // 7 * 7 ;; 12 / 3 / 2 ;; 1_000 + 1
'a' + 'b' ;; [1] + [2] ;; (1,) + (2,) ;; 'ab' * 3 ;; 3 * 'ab' ;; [0] * 3 ;; 2 * [1, 2] ;; 'a' * 0 ;; 'a' * -1 ;; (1, 2) * 2 ;; 'a' * true ;; [[]] * 2
'a' + 1 ;; 1 + 'a' ;; 'a' - 'b' ;; [1] + (2,) ;; {} + {} ;; none + 1 ;; 'a' * 'b' ;; 'a' * 1.5 ;; [1] * none ;; -'a' ;; +'a' ;; -none ;; 'a' / 2 ;; 'a' ** 2 ;; 'a' // 2 ;; [1] - [1] ;; {} * 2 ;; 'a' + none ;; 5 % 'a' ;; [] % 2 ;; 'a' + [1] ;; nope + 1 ;; nope * 2 ;; -nope ;; 1 + nope ;; 'a' + nope ;; nope + nope ;; nope / 2 ;; 2 ** nope ;; nope % 2 ;; 'a' % nope ;; {'a': 1} | {'b': 2} ;; 5 & 3 ;; ~5
1 ~ 2 ;; 'a' ~ none ~ true ;; 'a' ~ nope ~ 'b' ;; [1] ~ {} ;; 1.0 ~ '' ;; 1 ~ 2 + 3 ;; 'a' ~ 1 == 'a1' ;; 1 + 2 ~ 3 ;; 2 * 3 ~ 4 ;; 'a' ~ -1 ;; (1,) ~ 'x' ;; '' ~ 'é' ~ 0.1
1 < 2 < 3 ;; 1 < 3 < 2 ;; 1 < 2 > 0 ;; 3 > 2 > 1 ;; 1 == 1 == 1 ;; 1 < 2 == true ;; (1 < 2) == true ;; 1 != 2 != 1 ;; 'a' < 'b' ;; 'Z' < 'a' ;; [1,2] < [1,3] ;; (1,) < (1, 0) ;; 1 == 1.0 ;; 1 == true ;; 'a' == 1 ;; none == none ;; none == false ;; [] == () ;; {} == {} ;; {'a': 1, 'b': 2} == {'b': 2, 'a': 1} ;; [1, 2.0] == [1.0, 2] ;; 2**53 == 2.0**53 ;; 2**53 + 1 == 2.0**53 ;; 2**53 + 1 > 2.0**53 ;; true < 2 ;; 1 in [1] == true ;; '' == none ;; 'é' < '😀' ;; '\uffff' < '😀' ;; range(3) == range(3) ;; 0.0 == -0.0
1 < 'a' ;; 'a' < 1 ;; none < 1 ;; [] < () ;; {} < {} ;; none < none ;; none >= 0 ;; [1] < [2, 'a'] ;; [1] < ['a'] ;; nope < 1 ;; nope == none ;; nope == nope2 ;; nope != 1 ;; nope == '' ;; 1 > nope ;; 'a' <= nope ;; 1 < 2 < 'a' ;; 2 < 1 < 'a' ;; range(2) < range(3) ;; true < 'a'
1 in [1, 2] ;; 3 not in [1, 2] ;; 'b' in 'abc' ;; '' in '' ;; 'a' in {'a': 1} ;; 1 in {'a': 1} ;; 1.0 in [1] ;; true in [1] ;; not 1 in [1] ;; 'a' in ['a'|upper] ;; (1, 2) in [(1, 2)] ;; nope in [1] ;; none in [none] ;; 1 in nope ;; [1] in [[1]] ;; 'ab' in ['abc'] ;; 'a' in {'a': 1}.items() ;; ('a', 1) in {'a': 1}.items() ;; 1 in {'a': 1}.values() ;; 'a' in {'a': 1}.keys() ;; '1' in ([1]|map('string')) ;; 'a' in 'abc' in ['abc'] ;; 1 in () ;; [] == nope
1 in 'a' ;; none in 'a' ;; 1 in 5 ;; 'a' in none ;; [] in {} ;; nope in 'a' ;; [] in 'a' ;; nope in {} ;; 'a' in true ;; {} in {'a': 1}.keys()
1 and 2 ;; 0 and 2 ;; 0 or 'x' ;; '' or none ;; not 0 ;; not 'a' ;; not not 1 ;; 1 or nope.x.y ;; nope or 'd' ;; nope and 1 ;; not nope ;; [] or {} or () ;; true and 'yes' or 'no' ;; not 1 == 2 ;; 1 and not 0 ;; 'a' and [] ;; none or false ;; not none and 5 ;; 0.0 or 'z' ;; range(0) or 'empty' ;; namespace() and 1 ;; {}.items() or 'none' ;; ('' | safe) or 'm'
1 if true else 2 ;; 1 if false else 2 ;; 1 if false ;; (1 if false) is defined ;; [1 if false] ;; 'a' if 0 else 'b' if 1 else 'c' ;; ('a' if 0) ~ 'x' ;; 1 if nope else 3 ;; 1 + 2 if true else 3 ;; (1 if 0 else 2) * 2 ;; 'x' if 1 == 1 and 2 > 1 else 'y' ;; {'a': 1 if true else 2} ;; nope if false else 1 ;; (1 if false).x is defined ;; 1|string if true ;; 5 if false else nope
(1 if false).x ;; (1 if false) + 1 ;; (1 if false)() ;; 1 if ;; if 1 ;; 1 else 2 ;; nope.x if true
'abcdef'[1:3] ;; 'abcdef'[::-1] ;; 'abcdef'[-3:] ;; 'abcdef'[:-2] ;; 'abcdef'[4:1:-1] ;; 'abcdef'[::2] ;; 'abcdef'[10:] ;; 'abcdef'[-100:2] ;; 'abcdef'[5:0:-2] ;; 'abcdef'[:] ;; 'abcdef'[2:2] ;; 'abc'[none:none:none] ;; 'abc'[:none] ;; 'abc'[true:] ;; 'a😀é'[1] ;; 'a😀é'[1:] ;; 'a😀é'[::-1] ;; [1,2,3,4][1:-1] ;; [1,2,3,4][::-2] ;; (1,2,3)[1:] ;; (1,2,3)[::-1] ;; 'abc'[-1] ;; [1,2][-2] ;; [1,2][true] ;; 'abcdef'[-1:-4:-1] ;; 'abcdef'[:-3:-1] ;; 'abcdef'[-10::-1] ;; [][::-1] ;; 'abc'[2**70:] ;; 'abc'[-2**70:] ;; nope[1:] ;; {}[:1]
'abc'[::0] ;; 'abc'['a':] ;; 'abc'[1.0:] ;; 5[1:] ;; none[1:] ;; {'a': 1}[1:] ;; 'abc'[5] ;; 'abc'[5] is defined ;; 'abc'[1.0] ;; 'abc'[1.0] is defined ;; 5[0] is defined ;; none[0] is defined ;; {}['a'] is defined ;; [1]['a'] is defined ;; [1]['0'] is defined ;; 'abc'[none] is defined ;; {}[[]] is defined ;; nope[0] ;; nope['a'] ;; [1][0,] is defined ;; {(1, 2): 3}[1, 2] ;; [1, 2][0:1, 0] is defined ;; [1][] ;; ([1]|map('string'))[0] ;; {}.items()[0] is defined ;; {}.items()[:1] ;; [1][2**70] is defined
1 + ;; * 2 ;; 1 2 ;; 'a' 1 ;; (1 ;; [1 ;; {1: 2 ;; {1} ;; 1 = 2 ;; a = 1 ;; 1 <> 2 ;; 1 === 2 ;; 1 && 2 ;; 1 || 2 ;; !1 ;; $a ;; a? ;; `a` ;; 1 is ;; not ;; a..b ;; a. ;; .a ;; 1 not 2 ;; 1 not in ;; a b ;; ) ;; 1) ;; [1}] ;; {'a' 1} ;; {'a':} ;; lambda: 1 ;; f(a=1, 2) ;; range(1, a=1, *[2]) ;; f(**{}, 1) ;; @ ;; 1 ! 2 ;; 'a ;; "a' ;; ; ;; \
(1, 2) ;; 1, 2 ;; 1, ;; (1,) ;; () ;; [1, 2,] ;; {'a': 1,} ;; range(3,)|list ;; [,] ;; (,) ;; {,} ;; [1,,2] ;; (1) ;; ((1, 2), 3) ;; [[], [[]]]
true ;; True ;; TRUE ;; false ;; False ;; none ;; None ;; null ;; NONE ;; nil ;; true is boolean ;; None is none ;; True == true ;; is ;; in ;; and ;; x.in ;; x.is ;; x.true ;; {'if': 1}.if ;; {'not': 2}.not ;; {'None': 3}.None ;; {'for': 4}.for
"""

EXPRESSIONS["printf"] = r"""
'%s' % 1 ;; '%s %s' % (1, 'a') ;; '%d' % 3.7 ;; '%i' % -3 ;; '%5d|' % 42 ;; '%-5d|' % 42 ;; '%05d' % -42 ;; '%+d' % 5 ;; '% d' % 5 ;; '%x' % 255 ;; '%X' % 255 ;; '%#x' % 255 ;; '%o' % 8 ;; '%#o' % 8 ;; '%c' % 'a' ;; '%c' % 97 ;; '%c' % 128512 ;; '%r' % 'a' ;; '%r' % 'é\n' ;; '%a' % 'é' ;; '%%' % () ;; '%s' % none ;; '%s' % [1] ;; '%s' % {'a': 1} ;; '%(a)s %(b)d' % {'a': 'x', 'b': 2} ;; '%s' % true ;; '%d' % true ;; '%.3d' % 5 ;; '%#X' % 255 ;; '%-#8x|' % 255 ;; '%08x' % -255 ;; '%u' % 5 ;; '%ld' % 5 ;; '%hs' % 'a' ;; '%d' % 2**3
'%f' % 1 ;; '%.2f' % 3.14159 ;; '%8.3f|' % 2.5 ;; '%-8.1f|' % 2.25 ;; '%+.1f' % 2.35 ;; '%e' % 12345.678 ;; '%.2E' % 0.00012 ;; '%g' % 1e10 ;; '%g' % 0.0001 ;; '%g' % 0.00001 ;; '%G' % 1e-10 ;; '%g' % 123456789 ;; '%.3g' % 3.14159 ;; '%.0f' % 0.5 ;; '%.0f' % 1.5 ;; '%.0f' % 2.5 ;; '%f' % 1e300 | length ;; '%f' % 1e400 ;; '%F' % 1e400 ;; '%05.1f' % -2.5 ;; '%#.0f' % 3 ;; '%#g' % 1.0 ;; '%f' % -0.0 ;; '%g' % 100000 ;; '%g' % 1000000 ;; '%.10g' % 0.1 ;; '%.20f' % 0.1 ;; '%010f' % 1e400 ;; '%e' % 0 ;; '%.0e' % 15 ;; '%f' % true
'%5s|' % 'ab' ;; '%-5s|' % 'ab' ;; '%.2s' % 'abcdef' ;; '%5.1s|' % 'abc' ;; '%*d' % (5, 42) ;; '%.*f' % (2, 3.14159) ;; '%-*s|' % (4, 'a') ;; '%*d|' % (-5, 42) ;; '%05s' % 'a' ;; '%s' % (1,) ;; '%s' % ((1, 2),) ;; '%(a)s' % {'a': (1, 2)} ;; '%(a)5s|%(a)s' % {'a': 'é'} ;; 'abc' % {} ;; 'abc' % [] ;; '%s%%' % 50 ;; '%(x y)s' % {'x y': 1} ;; '%()s' % {'': 5} ;; '%+5s|' % 'a' ;; '%r' % ((1,),) ;; '%(a(b))s' % {'a(b)': 1}
'%s' % () ;; '%s %s' % 1 ;; '%s' % (1, 2) ;; '%d' % 'a' ;; '%d' % none ;; '%x' % 1.5 ;; '%f' % 'a' ;; '%c' % 'ab' ;; '%c' % 1.5 ;; '%c' % -1 ;; '%' % 1 ;; '%y' % 1 ;; '%(a)s' % 1 ;; '%(a)s' % {} ;; '%(a' % {'a': 1} ;; 'a' % 1 ;; 'a' % (1,) ;; '%*d' % ('a', 1) ;; '%d' % [1] ;; '%s %s' % [1, 2] ;; '%d' % 1e400 ;; '%s' % nope ;; 'a' % 'b' ;; '%c' % 1114112 ;; '%.*f' % (2,) ;; '%-' % 1 ;; '%(a)s' % [1] ;; '%s %(a)s' % {'a': 1} ;; '%b' % 5
"""

EXPRESSIONS["numbers"] = r"""
1e-7 ;; 1e16 ;; 1e15 ;; 1e22 ;; 1e23 ;; 0.1 + 0.2 ;; 1.0 ;; -0.0 ;; 2**70 ;; -2**70 ;; 0.0001 ;; 0.00001 ;; 123456789012345680.0 ;; 9999999999999998.0 ;; 1e100 ;; 1.5e300 ;; 5e-324 ;; 1.7976931348623157e308 ;; 1e400 ;; -1e400 ;; 1e400 - 1e400 ;; 1/3 ;; 2/3 ;; 100.0 ;; 1e5 ;; 3.14 ;; 0.5 ;; 1e0 ;; 12345678.9 ;; 1e400 * 0 == 1e400 * 0 ;; 9007199254740993 / 1 ;; 2**64 // 3 ;; 2**64 % 10 ;; -2**64 // 7 ;; 2**63 ;; -2**63 ;; 2**63 - 1 + 1 ;; 2**64 * 2**64 ;; 2**200
9223372036854775807 ;; 9223372036854775807 + 1 ;; -9223372036854775807 - 2 ;; 9223372036854775808 ;; 123456789012345678901234567890 ;; 123456789012345678901234567890 + 1 ;; 3037000500 * 3037000500 ;; 2**62 + 2**62 ;; -(2**63) // -1 ;; (2**70)|string|length ;; 2**70 == 2.0**70 ;; 2**70 > 1e21 ;; (2**70)|float ;; 2**70 / 2**69 ;; [2**65] ;; (2**70) % 1000 ;; '%d' % 2**70 ;; (2**70 - 2**70) ;; 2**70 * 0.5 ;; -(2**63)|abs ;; (2**65)|tojson ;; '99999999999999999999'|int + 1 ;; 1e22|int ;; 'a' * (2**70 - 2**70 + 2)
0x1F ;; 0b101 ;; 0o17 ;; 0XfF ;; 1_000 ;; 0x_ff ;; 1_0.5_0 ;; 1E5 ;; 1e+5 ;; 1e-2 ;; 00 ;; 0_0 ;; 1.5e3 ;; 0B1 ;; 0O7 ;; 1e1_0 ;; 0.5e-0 ;; 0xdead_beef ;; 1.real is defined
01 ;; 1. ;; .5 ;; 1__0 ;; 1_ ;; 0x ;; 1e ;; 0b2 ;; 1.5.5 ;; 0o8 ;; 1.e5 ;; 1j ;; 5L ;; 1.upper is defined ;; 1.0.x is defined ;; 0xg ;; 1a ;; _1 ;; 007
"""

EXPRESSIONS["repr"] = r"""
['a'] ;; ["it's"] ;; ['"'] ;; ['\'"'] ;; ['\\'] ;; ['\n\t\r'] ;; ['é'] ;; ['😀'] ;; ['\xa0'] ;; ['\x00'] ;; ['\x7f'] ;; ['\u200b'] ;; ['\u2028'] ;; ['\ufeff'] ;; ['\x85'] ;; ['\xad'] ;; ['\u0301'] ;; ['\U000e0041'] ;; ['\ue000'] ;; ['\x1b'] ;; ['\u3000'] ;; ['\uffff'] ;; ['\U0010ffff'] ;; ['\u0378'] ;; ['\b\f\v\a'] ;; ['\u061c'] ;; ['\u00ac'] ;; ['　']
(1,) ;; (1, 2) ;; () ;; [()] ;; [(1,)] ;; {'a': 'b'} ;; {1: [2, {3: 4}]} ;; [none, true, 1.0, 1e16] ;; {'a': nope} ;; [nope] ;; [''] ;; {} ;; [[], {}, ()] ;; {(1,): 'x'} ;; {none: none} ;; [range(3)] ;; [{}.items()] ;; {'a': 1}.keys() ;; {'a': 1}.values() ;; {'a': 1}.items() ;; [namespace(a='b')] ;; ['<'|e] ;; {1: 'a', true: 'b'} ;; {1: 1, 1.0: 2} ;; {'a': 1, 'a': 2} ;; (nope,) ;; [1e400, -0.0] ;; [-1] ;; [''|safe] ;; {'"': "'"} ;; ['a' 'b'] ;; ('a')
{[]: 1} ;; {{}: 1} ;; {nope: 1}|length ;; {([],): 1} ;; {range(2): 1} ;; {namespace(): 1}|length ;; {a: 1} ;; {'a': 1, **{}} ;; [*[1]]
"""

EXPRESSIONS["literals"] = r"""
'a\nb' ;; 'a\tb' ;; 'a\\b' ;; 'a\'b' ;; "a\"b" ;; 'a"b' ;; "a'b" ;; '\x41' ;; '\u0041' ;; '\U0001F600' ;; '\101' ;; '\0' ;; '\7'|length ;; '\d' ;; '\é' ;; '\a\b\f\v'|length ;; '\r\n'|length ;; 'é😀' ;; '\/' ;; '\%' ;; '\ '|length ;; '\u00e9' == 'é' ;; '\xe9' == 'é' ;; '\\n' ;; '\\\'' ;; '\400' ;; '\1234' ;; '\8' ;; '\é\n'
'\ud83d'|length ;; '\ud83d\ude00'|length
'\N{BULLET}' ;; '\N{latin small letter e with acute}'
'a' 'b' ;; 'a' "b" 'c' ;; 'a' 'b'|upper ;; 'a' 'b' ~ 'c' ;; ['a' 'b', 'c'] ;; 'a' 'b'[0] ;; 'a''b' ;; {'a' 'b': 1} ;; 'a' ('b') ;; 'a' 'b'.upper()
'\x4' ;; '\xzz' ;; '\u12' ;; '\U00110000' ;; '\N{NOSUCH}' ;; '\N' ;; '' ;; '{{ x }}' ;; '{% if %}' ;; '}}' ;; '%}' ;; '#}' ;; '{#' ;; "'" ;; 'a\' ;; r'a' ;; b'a' ;; f'a' ;; u'a'
{'a': {'b': 1}} ;; {'a': {'b': {}}}  ;; {'a': {}} ;; [{'a': 1}] ;; {'a': '}}'}
"""

EXPRESSIONS["str"] = r"""
'abC dE'.capitalize() ;; 'ß'.casefold() ;; 'ab'.center(6, '*') ;; 'abc'.center(6, '*') ;; 'ab'.center(5) ~ '.' ;; 'ab'.center(7, '*') ;; 'banana'.count('a') ;; 'banana'.count('an', 2) ;; 'banana'.count('a', 0, -1) ;; 'aaa'.count('') ;; 'aaaa'.count('aa') ;; 'abc'.endswith('c') ;; 'abc'.endswith(('x', 'c')) ;; 'abc'.endswith('b', 0, 2) ;; 'abc'.endswith('') ;; 'abc'.startswith('a') ;; 'abc'.startswith(('b', 'a')) ;; 'abc'.startswith('b', 1) ;; 'abc'.startswith('c', -1) ;; 'abc'.startswith(()) ;; 'abc'.startswith('', 4) ;; 'abc'.endswith('', 4)
'a\tb'.expandtabs() ;; 'a\tb'.expandtabs(4) ;; '\t'.expandtabs(tabsize=2)|length ;; 'a\n\tb'.expandtabs(2) ;; 'banana'.find('n') ;; 'banana'.find('x') ;; 'banana'.find('a', 2) ;; 'banana'.find('a', -1) ;; 'é😀a'.find('a') ;; 'banana'.rfind('a') ;; 'banana'.rfind('a', 0, 4) ;; 'banana'.index('n') ;; 'banana'.rindex('n') ;; 'abc'.find('') ;; 'abc'.rfind('') ;; 'abc'.find('', 4) ;; 'abc'.find('c', none, none) ;; 'abc'.find('b', true)
'{} {}'.format(1, 'a') ;; '{0}{1}{0}'.format('a', 'b') ;; '{a}'.format(a=1) ;; '{a[b]}'.format(a={'b': 2}) ;; '{0[1]}'.format([5, 6]) ;; '{:>5}|'.format('a') ;; '{:*^7}'.format('a') ;; '{:05d}'.format(42) ;; '{:.2f}'.format(3.14159) ;; '{:,}'.format(1234567) ;; '{:x}'.format(255) ;; '{:#b}'.format(5) ;; '{!r}'.format('a') ;; '{:e}'.format(12345.678) ;; '{:%}'.format(0.25) ;; '{:+}'.format(5) ;; '{{}}'.format() ;; '{:<5}|'.format(1) ;; '{:{w}}|'.format('a', w=4) ;; '{:g}'.format(1e10) ;; '{:n}'.format(5) ;; '{:_}'.format(1234567) ;; '{:c}'.format(97) ;; '{:.1%}'.format(0.256) ;; '{!s:>4}'.format(none) ;; '{}'.format(nope) ;; '{a}'.format_map({'a': 1}) ;; '{:.3}'.format('abcdef') ;; '{:=+5d}'.format(4) ;; '{!a}'.format('é') ;; '{:,.2f}'.format(1234.5) ;; '{:^5}'.format(true) ;; '{}'.format([1, 'a'])
'{}'.format() ;; '{a}'.format() ;; '{:d}'.format('a') ;; '{:z}'.format(1) ;; '{'.format() ;; '}'.format() ;; '{0} {}'.format(1, 2) ;; '{1}'.format(1) ;; '{:d}'.format(1.5) ;; '{:5}'.format([1]) ;; '{:5}'.format(none) ;; '{a.x}'.format(a=1) ;; '{!z}'.format(1) ;; '{a.__class__}'.format(a=1) ;; '{:.2}'.format(5)
'abc'.isalpha() ;; 'ab1'.isalnum() ;; '12'.isdigit() ;; '²'.isdigit() ;; '²'.isdecimal() ;; '½'.isnumeric() ;; 'abc'.islower() ;; 'ABC'.isupper() ;; ' \n'.isspace() ;; '\x1c\x85\u2028'.isspace() ;; '\u200b'.isspace() ;; 'Ab Cd'.istitle() ;; 'a_1'.isidentifier() ;; 'a\n'.isprintable() ;; 'é'.isascii() ;; ''.isalpha() ;; ''.isascii() ;; ''.isprintable() ;; '中'.isalpha() ;; '٣'.isdecimal() ;; '1a'.isidentifier() ;; 'ªº'.islower() ;; 'AB1'.isupper() ;; '中文'.isnumeric() ;; 'ǅ'.istitle() ;; "It'S".istitle() ;; '五'.isdigit() ;; '1.5'.isdigit() ;; '-1'.isdigit() ;; 'a b'.isalpha()
','.join(['a', 'b']) ;; ''.join('abc') ;; ', '.join({'a': 1, 'b': 2}) ;; '-'.join([]) ;; '-'.join(['a']) ;; '-'.join(['a','b']|map('upper')) ;; 'ab'.ljust(5) ~ '.' ;; 'ab'.rjust(5, '0') ;; 'ab'.ljust(1) ;; 'aBc'.lower() ;; 'aBß'.upper() ;; 'aBc'.swapcase() ;; "they're bill's x1y".title() ;; 'ǆ'.title() ;; 'ΑΣ Σ'.lower() ;; 'İ'.lower()|length ;; 'ﬃ'.title() ;; 'ŉ'.upper() ;; 'ß'.swapcase() ;; 'ﬁx'.capitalize()
'  a '.strip() ~ '.' ;; '  a '.lstrip() ~ '.' ;; '  a '.rstrip() ~ '.' ;; 'xyaxy'.strip('xy') ;; 'xyaxy'.lstrip('yx') ;; 'xyaxy'.rstrip('y') ;; ' a '.strip(none) ~ '.' ;; '\xa0\u3000\x1c\x85a\ufeff'.strip()|length ;; 'a'.strip('') ;; '\u200ba'.strip()|length ;; 'ééaé'.strip('é') ;; '\n\n\ta\n'.strip('\n')|length ;; 'a-b'.strip('a-z')
'a,b,c'.partition(',') ;; 'abc'.partition('x') ;; 'a,b,c'.rpartition(',') ;; 'abc'.rpartition('x') ;; 'abc'.removeprefix('a') ;; 'abc'.removesuffix('c') ;; 'abc'.removeprefix('x') ;; 'abc'.removesuffix('') ;; 'banana'.replace('a', 'o') ;; 'banana'.replace('a', 'o', 2) ;; 'abc'.replace('', '-') ;; 'abc'.replace('', '-', 2) ;; ''.replace('', 'x') ;; 'aaa'.replace('aa', 'b') ;; 'a'.replace('a', 'b', -1) ;; 'a'.replace('a', 'b', 0) ;; 'a'.replace('a', 'b', true) ;; ''.replace('', 'x', 0)
'a b  c'.split() ;; 'a,b,,c'.split(',') ;; 'a,b,c'.split(',', 1) ;; ' a b '.split() ;; ' a b '.split(' ') ;; 'a b c'.split(none, 1) ;; 'a b c'.split(maxsplit=1) ;; 'a,b'.split(sep=',') ;; ''.split() ;; ''.split(',') ;; 'a,b,c'.rsplit(',', 1) ;; 'a b c'.rsplit(none, 1) ;; '  a  b  '.rsplit(maxsplit=1) ;; '  a  b  '.split(none, 1) ;; 'abc'.split('bc') ;; 'a\x1cb\x85c\u2003d'.split() ;; 'a,b'.split(',', 0) ;; 'a,b,c'.split(',', -1) ;; '  a b'.split(none, 0) ;; 'aXXbXX'.split('XX') ;; 'aaa'.split('aa') ;; 'aaa'.rsplit('aa') ;; '  a b  '.rsplit(none, 0) ;; 'a\u200bb'.split()
'a\nb\r\nc\rd'.splitlines() ;; 'a\nb\n'.splitlines() ;; 'a\nb'.splitlines(true) ;; 'a\n\nb'.splitlines(keepends=true) ;; 'a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i'.splitlines() ;; ''.splitlines() ;; '\n'.splitlines() ;; '\r\n\r\n'.splitlines(true) ;; 'a\x1fb'.splitlines() ;; '42'.zfill(5) ;; '-42'.zfill(5) ;; '+1'.zfill(4) ;; 'abc'.zfill(2) ;; ''.zfill(2) ;; 'a'.__len__ is defined ;; 'a'.nosuch is defined ;; 'é'.zfill(3)
'abc'.translate({97: 'x', 98: none}) ;; 'abc'.translate({99: 100}) ;; 'a'.maketrans('ab', 'cd') ;; 'ab'.maketrans('a', 'b', 'c') ;; 'abc'.translate('a'.maketrans('ab', 'xy'))
'é'.encode() ;; 'a'.encode('utf-8') ;; 'é'.encode('latin-1') ;; 'ab'.encode().decode()
'a'.nosuch() ;; 'a'.upper(1) ;; 'a'.upper(x=1) ;; 'a'.center() ;; 'a'.center(5, 'ab') ;; 'a'.center('5') ;; 'a'.center(width=5) ;; 'a'.count() ;; 'a'.count(1) ;; 'a'.endswith(['a']) ;; 'a'.startswith(1) ;; 'a'.startswith(('b', 1)) ;; 'a'.startswith() ;; 'a'.find(1) ;; 'a'.find('a', 'b') ;; 'a'.index('x') ;; 'a'.rindex('x') ;; 'a'.index('a', 1) ;; ','.join([1]) ;; ','.join(5) ;; ','.join(none) ;; ','.join() ;; ','.join('a', 'b') ;; ','.join(nope) ;; ','.join([nope]) ;; 'a'.strip(1) ;; 'a'.strip('a', 'b') ;; 'a'.strip(chars='a') ;; 'a'.partition('') ;; 'a'.partition() ;; 'a'.removeprefix(1) ;; 'a'.removeprefix() ;; 'a'.replace('a') ;; 'a'.replace(1, 2) ;; 'a'.replace('a', none) ;; 'a'.replace('a', 'b', 'c') ;; 'a'.split('') ;; 'a'.split(1) ;; 'a'.split(',', 'a') ;; 'a'.split(',', 1, 2) ;; 'a'.split(foo=1) ;; 'a'.split(',', sep=',') ;; 'a'.split(',', 1.5) ;; 'a'.splitlines(1, 2) ;; 'a'.zfill() ;; 'a'.zfill('a') ;; 'a'.expandtabs('a') ;; 'a'.translate() ;; 'a'.ljust(5, '') ;; 'a'.isalpha(1) ;; 'a'.title(1) ;; 'a'.__class__ ;; 'a'.__len__() ;; 'a'.format_map(1) ;; 'a'.split(nope) ;; 'a' .upper() ;; 'a'. upper() ;; 'a'.upper ()
"""

EXPRESSIONS["methods"] = r"""
[1,2,2].count(2) ;; [1,2,3].index(2) ;; [1,2,1].index(1, 1) ;; [1,2].copy() ;; [1, 1.0, true].count(1) ;; (1,2,2).count(2) ;; (1,2).index(2) ;; (1,2).nosuch is defined ;; [1].append is defined ;; [3].index(3, -1) ;; ['a'].index('a', 0, 5) ;; [[1]].count([1])
[1].append(2) ;; [1].extend([2]) ;; [1].insert(0, 1) ;; [1].pop() ;; [1].remove(1) ;; [1].clear() ;; [1].sort() ;; [1].reverse() ;; [1].index(5) ;; [1].index() ;; [1].count() ;; [1].count(1, 2) ;; [1].copy(1) ;; [1].nosuch() ;; (1,).index(3) ;; (1,).append(1) ;; (1,).copy() ;; [1].index('a', 'b') ;; [1].index(1, 1)
{'a': 1}.get('a') ;; {'a': 1}.get('b') ;; {'a': 1}.get('b', 5) ;; {'a': 1, 'b': 2}.keys()|list ;; {'a': 1}.values()|list ;; {'a': 1}.items()|list ;; {'a': 1}.copy() ;; {}.fromkeys(['a'], 1) ;; {}.fromkeys('ab') ;; {'a': 1}.get(1) ;; {1: 'x'}.get(true) ;; {1: 'x'}.get(1.0) ;; {'get': 5}['get'] ;; {'get': 5}.get('get') ;; {'items': 5}.items is callable ;; {'items': 5}['items'] ;; {'a': 1}.keys() == {'a': 2}.keys() ;; {'a': 1}.items() == {'a': 1}.items() ;; {'a': 1}.values() == {'a': 1}.values() ;; {'a': 1}.keys() == ['a'] ;; {'b': 1, 'a': 2}.keys()|sort ;; {'a': 1}.keys()|first ;; {'a': 1}.items()|length ;; {'a': {'b': 2}}.get('a', {}).get('b') ;; {'a': 1}.get(nope) ;; {'a': none}.get('a', 5)
{}.get() ;; {}.get(1, 2, 3) ;; {}.get([]) ;; {}.get(key='a') ;; {'a': 1}.get('b', default=2) ;; {'a': 1}.pop('a') ;; {'a': 1}.update({}) ;; {'a': 1}.setdefault('b', 1) ;; {'a': 1}.popitem() ;; {'a': 1}.clear() ;; {}.keys(1) ;; {}.items(1) ;; {}.values()[0] is defined ;; {}.nosuch() ;; {}.nosuch ;; {}.nosuch.x ;; {}.get.__class__ ;; {'a': 1}.keys() + ['b'] ;; {'a': 1}.get('b').x is defined ;; {'a': 1}.get('b').x
(5).bit_length() ;; 255 .bit_count() ;; (5).real ;; (5).numerator ;; (5).denominator ;; (5).imag ;; (5).conjugate() ;; (1.5).is_integer() ;; (2.0).is_integer() ;; (1.5).real ;; (5).nosuch is defined ;; true.real ;; true.bit_length() ;; (1.5).conjugate() ;; (2**70).bit_length() ;; (1.5).imag ;; (-5).bit_length() ;; (0).bit_length()
(-7).as_integer_ratio() ;; (1.5).hex() ;; (0.5).as_integer_ratio()
(258).to_bytes(2, 'big')
(5).nosuch() ;; (5).bit_length(1) ;; (5).is_integer() ;; (1.5).nosuch() ;; none.x ;; none.x is defined ;; none.x.y ;; none.x() ;; (5).x.y ;; true.x ;; 1.x ;; (1.5).__class__ ;; (1e400).as_integer_ratio() ;; (5)._x is defined
"""

EXPRESSIONS["lookup"] = r"""
{'a': 1}.a ;; {'a': 1}['a'] ;; {'items': 1}.items is callable ;; {'items': 1}['items'] ;; {'x': {'y': 2}}.x.y ;; {'x': {'y': 2}}['x']['y'] ;; {'x': [1, {'y': 3}]}.x[1].y ;; [1, 2].0 ;; [[1, 2], [3]].0.1 ;; {'0': 'a', 0: 'b'}.0 ;; {0: 'b'}[0] ;; {'0': 'a'}['0'] ;; [5][0] ;; 'abc'.0 ;; 'abc'['upper'] is callable ;; 'abc'['upper']() ;; [1]['index'](1) ;; {'a': 1}['get']('a') ;; {'a': 1}['get'] is callable ;; {1.5: 'f'}[1.5] ;; {none: 'n'}[none] ;; {true: 't'}[1] ;; {(1, 2): 'p'}[(1, 2)] ;; {'keys': 5}.keys is callable ;; {'a b': 1}['a b'] ;; {'a': 1}['a'|lower] ;; {'__class__': 1}['__class__'] ;; {'_a': 1}._a ;; {'upper': 1}.upper ;; {'count': 2}.count ;; ['x'].count is callable ;; {'a': 1}|attr('get') is callable
{}.__class__ ;; {}.__class__ is defined ;; ''.__class__.__mro__ ;; {}['__class__'] is defined ;; [].__len__() ;; {'__class__': 1}.__class__ ;; range.__init__ ;; x.__class__ ;; nope.__class__ ;; ''['__class__'] ;; [1][5].x ;; [1][5].x is defined ;; {}.a.b is defined ;; {}.a.b.c is defined ;; {}.a().b is defined ;; nope.a.b ;; nope.a ;; nope['a'].b is defined ;; {}.a['b'] ;; [].0 is defined ;; [1, 2].-1 ;; [1].1.2 is defined
"""

EXPRESSIONS["undefined"] = r"""
nope ;; nope ~ 'a' ;; nope|string|length ;; nope is defined ;; nope|list ;; nope|length ;; not nope ;; nope == nope ;; nope != none ;; [nope] ;; nope|default(1) ;; nope or 2 ;; nope in [nope2] ;; {nope: 1}[nope2] ;; nope|join ;; nope|upper ;; nope|int ;; nope|first is defined ;; nope|map('upper')|list ;; {'a': nope}.a is defined ;; (nope, 1)[0] is defined ;; nope is iterable ;; nope is sequence ;; nope|trim ;; nope|e ;; nope|tojson|default('q')
nope.a ;; nope['a'] ;; nope() ;; nope.a() ;; nope + 'a' ;; 'a' + nope ;; nope < 1 ;; nope - 1 ;; nope * 2 ;; -nope ;; nope|abs ;; nope|float ;; nope|round ;; nope|tojson ;; nope|items|list ;; nope|dictsort ;; nope ** 2 ;; nope // 2 ;; 1 < nope ;; nope is lower ;; nope is odd ;; nope is lt 1 ;; 'a' in nope ;; nope[0] ;; nope|attr('a') ;; nope|attr('a') is defined ;; nope|sum ;; nope|last ;; nope|batch(2)|list ;; nope|groupby('a') ;; nope|format(1) ;; nope|replace('', 'x') ;; nope|urlencode ;; nope|wordcount ;; nope|title ;; range(nope) ;; 'abc'[nope] ;; 'abc'[nope:] ;; [1][nope] is defined ;; {}[nope] is defined ;; 'abc'.split(nope) ;; 'a' * nope ;; '%d' % nope ;; dict(a=nope) ;; raise_exception(nope) ;; nope.__len__ ;; x.y.z
"""

EXPRESSIONS["calls"] = r"""
range(*[1, 4])|list ;; dict(**{'a': 1}) ;; dict(*[{'a': 1}], **{'b': 2}) ;; 'a-b'.split(*['-']) ;; 'a b c'.split(**{'maxsplit': 1}) ;; dict(a=1, **{'b': 2}) ;; range(*(2, 4))|list ;; range(*'')|list ;; ','.join(*[['a', 'b']]) ;; 'abc'.replace('a', *['b']) ;; dict(a=1, a=2) ;; dict(a=1, **{'a': 2}) ;; range(*5) ;; dict(**5) ;; dict(**{1: 2}) ;; range(*nope) ;; dict(**nope) ;; range(*[1], *[2]) ;; range(1, 2,) ;; range(,) ;; dict(a=) ;; dict('a'=1) ;; dict(a.b=1) ;; ''.join(c for c in 'ab') ;; [x for x in [1]] ;; 'a'.upper().lower().title() ;; 'a b'.split()[0].upper() ;; (range)(2)|list ;; [range][0](2)|list ;; {'f': range}.f(2)|list
"""

EXPRESSIONS = {
    section: [line.split(" ;; ") for line in lines.strip("\n").split("\n")]
    for section, lines in EXPRESSIONS.items()
}
EXPRESSIONS = {"tests": [[f"{value} is {test}" for value in VALUES] for test in TESTS]} | {
    section if section != "tests" else "tests_more": lines for section, lines in EXPRESSIONS.items()
}

# Whole templates, some with a context.
TEMPLATES = {}

TEMPLATES["for"] = [
    "{% for x in [1, 2, 3] %}{{ x }},{% endfor %}",
    "{% for x in [] %}a{% else %}empty{% endfor %}|{% for x in [1] %}a{% else %}empty{% endfor %}",
    "{% for x in nope %}a{% else %}empty{% endfor %}",
    "{% for x in none %}a{% else %}empty{% endfor %}",
    "{% for x in 5 %}a{% endfor %}",
    "{% for c in 'añ😀' %}[{{ c }}]{% endfor %}",
    "{% for k in {'b': 1, 'a': 2} %}{{ k }}{% endfor %}",
    "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}={{ v }} {% endfor %}",
    "{% for k, v in {'b': 1, 'a': 2}|dictsort %}{{ k }}={{ v }} {% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3)), [4, [5, 6]]] %}{{ a }}{{ b }}{{ c }} {% endfor %}",
    "{% for a, b in [[1]] %}{{ a }}{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}",
    "{% for a, b in [1] %}{{ a }}{% endfor %}",
    "{% for a, b in ['xy', 'zw'] %}{{ b }}{{ a }}{% endfor %}",
    "{% for (a, b) in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, in [[1], [2]] %}{{ a }}{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}",
    "{% for x in [1, 2, 3, 4] if x is even %}{{ x }}{{ loop.index }}{{ loop.length }}{{ loop.last }} {% endfor %}",
    "{% for x in [1, 3] if x is even %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in [1, 2] if loop.index > 1 %}{{ x }}{% endfor %}",
    "{% for x in [3, 4] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}",
    "{% for x in [1, 2, 3] %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in [1, 2] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{{ loop.nextitem.x is defined }}{% endfor %}",
    "{% for x in range(5) %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in range(2) %}{{ loop.cycle() }}{% endfor %}",
    "{% for x in range(3) %}{{ loop.cycle(*['a', 'b']) }}{% endfor %}",
    "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x, 'a') }} {% endfor %}{% for x in [1, 2] %}{{ loop.changed() }}{% endfor %}",
    "{% for x in [1, 2] %}{% for y in [1] %}{{ loop.depth }}{{ loop.index }}{% endfor %}{{ loop.index }} {% endfor %}",
    "{% for x in [1, 2] %}{% set outer = loop %}{% for y in 'ab' %}{{ outer.index }}{{ loop.index }}{{ y }} {% endfor %}{% endfor %}",
    "{% for x in [1, [2, [3]], 4] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}",
    "{% for n in t recursive %}{{ n.v }}{% if n.c %}[{{ loop(n.c) }}]{% endif %}{% else %}-{% endfor %}",
    "{% for x in [1] %}{{ loop([2]) }}{% endfor %}",
    "{% for x in [[1, 2], []] recursive %}{{ loop(x) if x is iterable else x }}{% else %}E{% endfor %}",
    "{% for x in range(10) %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% else %}E{% endfor %}",
    "{% for x in range(5) %}{% if x is odd %}{% continue %}{% endif %}{{ x }}{{ loop.index }} {% endfor %}",
    "{% for x in range(3) %}{% for y in range(3) %}{% if y == 1 %}{% break %}{% endif %}{{ x }}{{ y }} {% endfor %}|{% endfor %}",
    "{% for x in [1] %}{% break %}{% else %}E{% endfor %}",
    "{% for x in [] %}{% else %}{% break %}{% endfor %}",
    "{% for x in [1, 2] %}{% for y in [] %}{% else %}{% break %}{% endfor %}{{ x }}{% endfor %}",
    "{% break %}",
    "{% if true %}{% continue %}{% endif %}",
    "{% for x in [1, 2] %}{% with %}{% break %}{% endwith %}{% endfor %}ok",
    "{% for x in [1, 2] %}a{% filter upper %}b{% break %}{% endfilter %}{% endfor %}ok",
    "{% for x in [1, 2] %}{% set y %}b{% continue %}{% endset %}{{ y }}{% endfor %}ok",
    "{% for x in [1, 2] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}ok",
    "{% for x in [1, 2] %}{{ loop }} {% endfor %}",
    "{{ loop.index }}",
    "{{ loop }}",
    "{% for loop in [1] %}{{ loop }}{% endfor %}",
    "{% for x in [1, 2] %}{% set loop = 5 %}{{ loop }}{% endfor %}",
    "{% for x in [1] %}{{ loop.nosuch }}{{ loop.nosuch is defined }}{% endfor %}",
    "{% for x in [1] %}{{ loop['index'] }}{{ loop|attr('index') }}{% endfor %}",
    "{% for x in [1, 2, 3]|map('string') %}{{ x }}{{ loop.length }}{{ loop.last }}{{ loop.revindex }} {% endfor %}",
    "{% set m = [1, 2]|map('string') %}{% for x in m %}{{ x }}{% endfor %}|{% for x in m %}{{ x }}{% else %}used{% endfor %}|{{ m|list }}",
    "{% set m = [1, 2]|select %}{{ 1 in m }}{{ m|list }}{{ m|first is defined }}",
    "{% set m = [1, 2, 3]|map('string') %}{{ m|first }}{{ m|first }}{{ m|join('-') }}",
    "{% for x in [1, 2] %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 9 %}{% for x in [1, 2] %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = [1, 2] %}{% for x in x %}{{ x }}{% endfor %}{{ x }}",
    "{% for x in x %}{{ x }}{% endfor %}",
    "{% for x in range(3) %}{% if loop.first %}<{% elif loop.last %}>{% else %}-{% endif %}{% endfor %}",
    "{% for %}{% endfor %}",
    "{% for x %}{% endfor %}",
    "{% for x in %}{% endfor %}",
    "{% for 1 in [1] %}{% endfor %}",
    "{% for x.y in [1] %}{% endfor %}",
    "{% for x in [1] %}",
    "{% endfor %}",
    "{% for x in [1] %}{% else %}{% else %}{% endfor %}",
    "{% for true in [1] %}{% endfor %}",
    "{% for x in [1] %}{% endfor x %}",
    "{% for x in [1, 2] -%}  {{ x }}  {%- endfor %}.",
    "{% for x in ([1, 2] if true else []) %}{{ x }}{% endfor %}",
    "{% for x in [1, 2] if true else [] %}{{ x }}{% endfor %}",
    "{% for x in [[1, 2], [3]] %}{% for y in x %}{{ loop.last }}{% endfor %}{{ loop.last }} {% endfor %}",
    "{% for x in namespace(a=1) %}{% endfor %}",
    "{% set j = joiner(', ') %}{% for x in 'abc' %}{{ j() }}{{ x }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{% for x in range(3) %}{{ c.next() }}{{ c.current }}{% endfor %}{% set _ = c.reset() %}{{ c.current }}",
    "{% for _ in range(2) %}{{ _ }}{% endfor %}",
]
TREE = {"t": [{"v": 1, "c": [{"v": 2, "c": []}, {"v": 3, "c": [{"v": 4}]}]}, {"v": 5}]}
TEMPLATES["for"] = [(text, TREE) if " in t recursive" in text else text for text in TEMPLATES["for"]]

TEMPLATES["if"] = [
    "{% if 1 %}a{% endif %}{% if 0 %}b{% else %}c{% endif %}{% if 0 %}d{% elif 1 %}e{% elif 1 %}f{% else %}g{% endif %}",
    "{% if nope %}a{% else %}b{% endif %}{% if nope is defined %}c{% endif %}{% if '' or [] or {} or 0.0 %}d{% endif %}",
    "{% if nope.x %}a{% endif %}",
    "{% if %}a{% endif %}",
    "{% if 1 %}a",
    "{% endif %}",
    "{% if 1 %}a{% else %}b{% else %}c{% endif %}",
    "{% if 1 %}a{% elseif 1 %}b{% endif %}",
    "{% if 1 %}a{% else if 1 %}b{% endif %}",
    "{% if 1 %}{% for x in [1] %}{% endif %}{% endfor %}",
    "{% if 1, %}a{% endif %}{% if () %}b{% endif %}",
    "{% if not 1 %}a{% elif not 0 %}b{% endif %}",
    "{% if a = 1 %}a{% endif %}",
    "{% nosuch %}",
    "{% %}",
    "{{ }}",
    "{% if 1 %}",
    "{{ 1",
    "{% if 1",
    "{# a",
    "a }} b %} c #}",
    "{{ 1 }}}",
    "{{{ 1 }}}",
    "{{ {} }}{{ {'a': 1}}}",
    "{{ '}}' }}{{ \"%}\" }}",
    "{% do 1 %}",
    "{% debug %}",
    "{% trans %}a{% endtrans %}",
    "{% autoescape true %}{{ '<' }}{{ '<'|safe }}{% endautoescape %}{{ '<' }}",
    "{% block a %}x{{ self.a is defined }}{% endblock %}",
    "{% set x = 1 %}{% block a %}{{ x }}{% endblock %}",
    "{% block a %}x{% endblock %}{{ self.a() }}",
    "{% block a %}{% endblock b %}",
    "{% block a %}{% endblock %}{% block a %}{% endblock %}",
    "{% extends 'a' %}",
    "{% include 'a' %}",
    "{% include 'a' ignore missing %}ok",
    "{% import 'a' as b %}",
    "{% from 'a' import b %}",
    "{% print 1, 2 %}",
]

TEMPLATES["set"] = [
    "{% set x = 1 %}{{ x }}{% set x = x + 1 %}{{ x }}",
    "{% set x, y = 1, 2 %}{{ x }}{{ y }}{% set (a, b) = [3, 4] %}{{ a }}{{ b }}{% set x, y = y, x %}{{ x }}{{ y }}",
    "{% set x, y = 1, 2, 3 %}",
    "{% set x = 1, 2 %}{{ x }}{% set y = 1, %}{{ y }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% set z = 3 %}{% endif %}{{ x }}{{ z }}",
    "{% if false %}{% set x = 1 %}{% endif %}{{ x is defined }}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}",
    "{% for i in [1, 2] %}{% if i == 1 %}{% set x = 5 %}{% endif %}{{ x }}|{% endfor %}{{ x is defined }}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% if i == 1 %}{% set x = 5 %}{% endif %}{{ x }}|{% endfor %}{{ x }}",
    "{% set x = 1 %}{% with %}{% set x = 2 %}{{ x }}{% endwith %}{{ x }}",
    "{% with x = 1, y = 2 %}{{ x }}{{ y }}{% endwith %}{{ x is defined }}",
    "{% set x = 5 %}{% with x = 1, y = x %}{{ x }}{{ y }}{% endwith %}{{ x }}",
    "{% with a, b = 1, 2 %}{{ a }}{% endwith %}",
    "{% with a = 1 b = 2 %}{{ a }}{% endwith %}",
    "{% with a = 1, %}{{ a }}{% endwith %}",
    "{% with (a, b) = (1, 2) %}{{ a }}{{ b }}{% endwith %}",
    "{% with a %}{% endwith %}",
    "{% set x = 1 %}{% macro m() %}{{ x }}{% set x = 2 %}{{ x }}{% endmacro %}{{ m() }}{{ x }}",
    "{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}",
    "{% macro m() %}{{ y }}{% endmacro %}{% set y = 2 %}{{ m() }}",
    "{% macro m() %}{{ i }}{% endmacro %}{% for i in [1, 2] %}{{ m() }}.{% endfor %}",
    "{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}{{ m is defined }}",
    "{% if true %}{% macro m() %}a{% endmacro %}{% endif %}{{ m() }}",
    "{% set x %}a{{ 1 + 1 }}b{% endset %}[{{ x }}]{{ x is string }}{{ x is escaped }}{{ x|length }}",
    "{% set x | upper %}abc{% endset %}{{ x }}",
    "{% set x | upper | replace('B', 'z') %}abc{% endset %}{{ x }}{{ x is escaped }}",
    "{% set x %}<{% endset %}{{ x ~ '<' }}{{ (x ~ '<') is escaped }}{{ [x] }}",
    "{% set x | length %}abc{% endset %}{{ x + 1 }}",
    "{% set x | trim | int %} 5 {% endset %}{{ x + 1 }}",
    "{% set x %}{% set y = 5 %}{{ y }}{% endset %}{{ x }}{{ y is defined }}",
    "{% set x %}{% endset %}[{{ x }}]{{ x is defined }}{{ x == '' }}",
    "{% set x, y %}a{% endset %}{{ x }}",
    "{% set x | nosuch %}a{% endset %}",
    "{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{% set ns.b = 3 %}{{ ns.a }}{{ ns.b }}{{ ns }}",
    "{% set ns = namespace(n=0) %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% set ns = namespace() %}{% set ns.x %}block{% endset %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns.x | upper %}block{% endset %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}",
    "{% set ns = namespace() %}{% set x, ns.b = 1, 2 %}{{ x }}{{ ns.b }}",
    "{% set d = {} %}{% set d.a = 1 %}",
    "{% set nope.a = 1 %}",
    "{% set ns = namespace(d={}) %}{% set ns.d.a = 1 %}",
    "{% set ns = namespace() %}{% set ns['a'] = 1 %}",
    "{% set ns = namespace(l=[1]) %}{% set ns.l = ns.l + [2] %}{{ ns.l }}",
    "{% set ns = namespace(a=1) %}{% macro m(n) %}{% set n.a = 7 %}{% endmacro %}{{ m(ns) }}{{ ns.a }}",
    "{% set ns = namespace(a=1) %}{% for k in ns %}{% endfor %}",
    "{% set x = [1] %}{% set y = x %}{{ x.append(2) }}{{ y }}",
    "{% set _ = {}.update({'a': 1}) %}",
    "{% set true = 1 %}",
    "{% set none = 1 %}",
    "{% set 'a' = 1 %}",
    "{% set a[0] = 1 %}",
    "{% set x %}",
    "{% set x = %}",
    "{% set %}",
    "{% set range = 5 %}{{ range }}",
    "{% set self = 5 %}{{ self }}",
    "{% set x = 1 if false %}{{ x is defined }}[{{ x }}]",
    "{% set x = nope %}{{ x is defined }}",
    "{% set x = nope.y %}",
    ("{{ x }}{% set x = 2 %}{{ x }}", {"x": 1}),
    ("{% if false %}{% set x = 2 %}{% endif %}{{ x }}", {"x": 1}),
    ("{% for i in [1] %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}", {"x": 1}),
    ("{% macro m() %}{{ x }}{% endmacro %}{{ m() }}", {"x": 1}),
    ("{{ range }}{{ dict }}{{ none }}{{ true }}", {"range": 1, "dict": 2, "none": 3, "true": 4}),
    ("{% set x = x + 1 %}{{ x }}", {"x": 1}),
    ("{% set x = x|default(5) %}{{ x }}", {}),
    ("{{ loop }}{% for i in [1] %}{{ loop.index }}{% endfor %}{{ loop }}", {"loop": 7}),
    ("{{ caller }}{{ varargs }}{% macro m() %}{{ varargs }}{% endmacro %}{{ m(1) }}", {"caller": 1, "varargs": 2}),
    "{% set é = 1 %}{{ é }}{% set _x1 = 2 %}{{ _x1 }}{% set 中 = 3 %}{{ 中 }}",
    "{% set a-b = 1 %}",
    "{% set 1a = 1 %}",
]

TEMPLATES["macro"] = [
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a=b, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m() }}",
    "{% set d = 1 %}{% macro m(a=d) %}{{ a }}{% endmacro %}{% set d = 2 %}{{ m() }}",
    "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(none) }}{{ m(nope) }}",
    "{% macro m(a=5) %}{{ a }}{% endmacro %}{{ m(nope) }}[{{ m(none) }}]",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{% endmacro %}{{ m(1, 2, 3) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{{ kwargs }}{% endmacro %}{{ m(1, x=2, y=3) }}{{ m(1) }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, *[2], x=3, **{'y': 4}) }}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}{% call m() %}x{% endcall %}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{{ 1 + 1 }}{% endcall %}",
    "{% macro m() %}[{{ caller(1, 2) }}]{% endmacro %}{% call(a, b) m() %}{{ a }}-{{ b }}{% endcall %}",
    "{% macro m() %}[{{ caller(1) }}]{% endmacro %}{% call(a, b=3) m() %}{{ a }}-{{ b }}{% endcall %}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call(a) m() %}{{ a is defined }}{% endcall %}",
    "{% macro m() %}[{{ caller(1) }}]{% endmacro %}{% call m() %}x{% endcall %}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{{ m() }}",
    "{% macro m() %}a{% endmacro %}{% call m() %}x{% endcall %}",
    "{% macro m(x) %}{{ x }}{{ caller() }}{{ caller() }}{% endmacro %}{% set y = 1 %}{% call m(5) %}{{ y }}{% endcall %}",
    "{% macro m() %}{{ caller() }}{% endmacro %}{% macro n() %}<{% call m() %}{{ caller() }}{% endcall %}>{% endmacro %}{% call n() %}in{% endcall %}",
    "{% macro m(caller=none) %}{{ caller is none }}{% endmacro %}{{ m() }}{% call m() %}x{% endcall %}",
    "{% macro m(caller) %}{{ caller() }}{% endmacro %}{% call m() %}x{% endcall %}",
    "{% macro m() %}{{ caller.name }}{{ caller.arguments }}{% endmacro %}{% call(a) m() %}x{% endcall %}",
    "{% call 5 %}x{% endcall %}",
    "{% call range(2) %}x{% endcall %}",
    "{% macro m(a, b=1, *c) %}{% endmacro %}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% macro m(a, a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m %}{% endmacro %}",
    "{% macro m() %}",
    "{% macro m(1) %}{% endmacro %}",
    "{% macro m() %}{% endmacro %}[{{ m() }}]{{ m() is string }}{{ m() is escaped }}",
    "{% macro m() %}<{% endmacro %}{{ m() ~ '<' }}{{ m()|e }}{{ [m()] }}{{ m() + 'a' }}",
    "{% macro m(a, b=2) %}{% endmacro %}{{ m }}{{ m.name }}{{ m.arguments }}{{ m.catch_kwargs }}{{ m.catch_varargs }}{{ m.caller }}{{ m.defaults is defined }}",
    "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}",
    "{{ m() }}{% macro m() %}a{% endmacro %}",
    "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}",
    "{% macro m() %}a{% endmacro %}{% macro m() %}b{% endmacro %}{{ m() }}",
    "{% macro m(x) %}{% set x = x ~ '!' %}{{ x }}{% endmacro %}{{ m('a') }}",
    "{% macro m(l=[]) %}{{ l }}{% endmacro %}{{ m() }}{{ m([1]) }}{{ m(l=(2,)) }}",
    "{% macro m() %}  a\n  b\n{% endmacro %}[{{ m() }}]",
    "{%- macro m() -%}\n  a\n{%- endmacro -%}\n[{{ m() }}]",
    "{% macro m() %}{% for x in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop is defined }}{% endmacro %}{% for y in [1] %}{{ m() }}{% endfor %}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ [1, 2]|map('string')|map('upper')|join }}{{ m(*[1]) }}{{ m(**{'a': 2}) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ {'f': m}.f(3) }}{% set g = m %}{{ g(4) }}",
    "{% macro m(x) %}{% if x %}{{ x }}{% endif %}{% endmacro %}{{ m() }}{{ m('') }}{{ m(0) }}{{ m('a')|upper }}",
    "{% macro m(a, kwargs) %}{{ kwargs }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{% endmacro m %}ok",
    "{% filter upper %}a{{ 'b' }}c{% endfilter %}",
    "{% filter upper|replace('B', 'x') %}abc{% endfilter %}",
    "{% filter indent(2) %}a\nb{% endfilter %}|{% filter trim %}  a  {% endfilter %}|",
    "{% filter nosuch %}a{% endfilter %}",
    "{% filter %}a{% endfilter %}",
    "{% filter length %}abc{% endfilter %}",
    "{% filter escape %}<{{ '>' }}{% endfilter %}{% filter upper %}{% set q = 1 %}{{ q }}{% endfilter %}{{ q is defined }}",
    "{% filter list %}ab{% endfilter %}",
    "{% filter default('x') %}{% endfilter %}|",
    "{% raw %}{{ x }}{% if %}{# a #}{% endraw %}",
    "{% raw %}\n  a\n{% endraw %}\nb",
    "{%- raw -%}  a  {%- endraw -%}  b",
    "  {% raw %} a {% endraw %}  \nb",
    "{% raw %}a",
    "{% raw %}{% raw %}{% endraw %}",
    "{% raw %}{{ '{% endraw %}' }}",
    "a{# comment #}b{#- c -#} d {# {{ x }} {% y %} #}e",
    "a\n{# c #}\nb\n  {# d #}\nc {# e #}\nd",
    "{# a {# b #} c #}",
    "{#}#}x",
    "{##}x{#-#}y",
    "a {#- b #} c {# d -#} e {#+ f #} g {# h +#}\n i",
    "# a\n## b\n{{ 1 # 2 }}",
    "{% generation %}a{{ 1 }}{% endgeneration %}b",
    "{%- generation -%}  a  {%- endgeneration -%}  b",
    "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}",
    "{% for i in [1, 2] %}{% generation %}{{ i }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% set x = 1 %}{% generation %}{{ x }}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "{% generation %}a",
    "{% generation x %}a{% endgeneration %}",
    "{% endgeneration %}",
    "{% macro m() %}{% generation %}{{ caller() }}{% endgeneration %}{% endmacro %}{% call m() %}x{% endcall %}",
    "{% generation %}{% generation %}a{% endgeneration %}{% endgeneration %}",
    "{% with %}{% set a = 1 %}{% with b = a %}{{ a }}{{ b }}{% endwith %}{% endwith %}{{ a is defined }}",
]

TEMPLATES["whitespace"] = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}  \n  b\n  {% endif %}\nc",
    "a {% if true %} b {% endif %} c",
    "a\n\n{{ 1 }}\n\nb\n\n",
    "a\n{{ 1 }}\nb",
    "a \n {{- 1 -}} \n b",
    "a \n {%- if true -%} \n b \n {%- endif -%} \n c",
    "a \n {%+ if true +%} \n b{%+ endif %}\n c",
    "  {%+ if true %}\na\n  {%+ endif +%}\nb",
    "a\n  {{ 1 }}\n  {%- set x = 1 %}\n  b",
    "{% set x = 1 %}\n\n{% set y = 2 %}\n a",
    "\t {% if true %}\t\n\ta\n\t{% endif %}",
    "a\t{% if true %}\nb{% endif %}",
    "a\xa0\n\xa0{% if true %}b{% endif %}",
    "\u3000{%- if true -%}\xa0\x1c a{% endif %}",
    "a\x0b{%- if true -%}\x0cb{% endif %}",
    "a\n",
    "a\n\n",
    "\n",
    "",
    " ",
    "\na",
    "a\r\n",
    "a\r\nb\r\n",
    "a\rb\r",
    "a\n\rb\r\n\nc",
    "{% if true %}\r\na\r\n{% endif %}\r\nb",
    "{% if true %}\ra\r{% endif %}\rb",
    "  {% if true %}\r\n  a\r\n  {% endif %}\r\nb\r\n\r\n",
    "{{ 'a\r\nb' }}|{{ 'a\rb'|length }}|{{ 'a\r\nb'|length }}|{{ 'a\\r\\nb'|length }}",
    "{{ 'a\nb' }}{{ \"c\n\" }}",
    "{# a\r\nb #}\r\nc{# d #}\re",
    "{% raw %}\r\na\r{% endraw %}\r\nb",
    ("{{ x }}|{{ x|length }}", {"x": "a\r\nb\rc\n"}),
    ("{{ x }}\n", {"x": "a\n"}),
    ("{{ x }}\r\n{% set y = x %}\r\n{{ y|replace('\r', 'R') }}", {"x": "a\rb"}),
    ("[{{ x }}]{{ x|tojson }}{{ [x] }}", {"x": "\x00\x0b\u2028\ufeff\x85 '\""}),
    "a\x0bb\x0cc\x85d\u2028e",
    "a\x85{% if true %}\x85b{% endif %}\n",
    "a\u2028  {% if true %}b{% endif %}",
    "{{\n1\n+\n2\n}}{%\nif\ntrue\n%}a{%\nendif\n%}",
    "{{1}}{{-1}}{{- 1}}{{ 1-}}{{ -1 }}{{+1}}{{ 1 - 1 -}}",
    "{{ 1 -}} a {{- 2 }}",
    "a {{+ 1 +}} b",
    "{%if true%}a{%endif%}",
    "{%-if true-%} a {%-endif-%}",
    "{% if true -%}\n\n  a\n\n{%- endif %}\n\nb",
    "  {{ 1 }}  {% if true %}  {{ 2 }}  {% endif %}  ",
    "a  {% if true %}{% endif %}\n  b",
    "  {% if true %}x{% endif %}  {% if true %}y{% endif %}",
    "  {# c #}\n  {# d #} a\n",
    "  {#- c -#}\n  a",
    "a\n  {% for x in [1, 2] %}\n    {{ x }}\n  {% endfor %}\nb",
    "a\n  {%- for x in [1, 2] %}\n    {{- x }}\n  {%- endfor %}\nb",
    "{% for x in [1, 2] -%}\n  {{ x }}\n{% endfor -%}\n  b",
    "{%- if true %} a{% else %} b{% endif %}\n",
    "{% set x %}\n  a\n{% endset %}[{{ x }}]",
    "{{ 'a' }}\n{% if false %}\nx\n{% endif %}\n{{ 'b' }}\n\n",
    "{{ 1 }}\n{{- 2 }}\n{{ 3 -}}\n{{ 4 }}",
    "a{% if true %}\n\nb{% endif %}\n\nc",
    "a{# x #}\n\nb",
    "a{# x -#}\n\nb",
    "a{% if true +%}\nb{% endif +%}\nc",
    "\ufeffa{{ 1 }}",
    "{{\xa01 }}",
    "{{ 1\u3000}}",
    "{{ 1\x0c+\x0b1 }}",
    "{{ 1\x851 }}",
    "{{ 1;2 }}",
    "é{{ 'é' }}😀\x00\x7f",
]

# What JSON gives that literals do not.
TEMPLATES["context"] = [
    ("{{ a }} {{ b }} {{ c }} {{ d }} {{ e }} {{ f }}", {"a": None, "b": True, "c": 1.0, "d": 10**18, "e": "<é>", "f": -0.0}),
    ("{{ x }}|{{ x|tojson }}", {"x": {"b": [1, 2.5, None, True, "it's"], "a": {}, "": []}}),
    ("{{ x.a.b }}{{ x['a']['b'] }}{{ x.a.nope is defined }}{{ x.a.nope }}", {"x": {"a": {"b": 1}}}),
    ("{{ x.items is callable }}{{ x['items'] }}", {"x": {"items": 5}, "y": 1}),
    ("{{ x.keys()|list }}{{ x['keys'] }}{{ x.nope is defined }}", {"x": {"keys": 5}}),
    ("{{ m[0].role }}{{ m[-1]['role'] }}{{ m[1:]|length }}{{ m|map(attribute='role')|join(',') }}", {"m": [{"role": "user"}, {"role": "assistant"}]}),
    ("{{ m.content is string }}{{ m.content is none }}{{ m['content'] is defined }}{{ m.get('x', '') }}", {"m": {"content": None}}),
    ("{% for k, v in x|items %}{{ k }}:{{ v }};{% endfor %}{{ x|dictsort }}", {"x": {"b": 1, "a": 2, "B": 3}}),
    ("{{ x == 1 }}{{ x is integer }}{{ x is float }}{{ x + 1 }}", {"x": 1.0}),
    ("{{ x }}{{ x + 1 }}{{ x * x }}{{ x|tojson }}", {"x": 9223372036854775807}),
    ("{{ x['a'] }}{{ x.0 }}{{ x['0'] }}", {"x": {"a": 1, "0": 2}}),
    ("{{ s.split('</think>')[-1].lstrip('\\n') }}{{ s.split('</think>')[0].split('<think>')[-1].strip('\\n') }}", {"s": "<think>\na\n</think>\n\nb"}),
    ("{{ x|string }}{{ x ~ '' }}{{ x|join }}", {"x": ["a", 1, None]}),
    ("{{ x }}{{ [x] }}{{ x|length }}{{ x[1] }}{{ x[::-1] }}", {"x": "e\u0301👩‍👧"}),
    ("{{ x.append(1) }}", {"x": []}),
    ("{{ x.pop('a') }}", {"x": {"a": 1}}),
    ("{{ x is mapping }}{{ x is iterable }}{{ x is sequence }}{{ y is sequence }}{{ y is mapping }}", {"x": {}, "y": []}),
    ("{% set x = x + [3] %}{{ x }}{% set d = dict(d, c=3) %}{{ d }}", {"x": [1], "d": {"a": 1}}),
]  # fmt: skip


def templates():
    """Of each section the templates and their contexts."""
    for section, lines in EXPRESSIONS.items():
        for expressions in lines:
            kept = []
            raised = []
            for expression in expressions:
                template = "{{ " + expression + " }}"
                if "error" in rendered(template, {}):
                    raised.append(template)
                else:
                    kept.append(template)
            # As many as are read easily where they differ.
            for start in range(0, len(kept), 12):
                yield section, "|".join(kept[start : start + 12]), {}
            if section == "tests":
                # Of many alike.
                raised = raised[:: len(raised) // 2 or 1]
            for template in raised:
                yield section, template, {}
    for section, cases in TEMPLATES.items():
        for case in cases:
            yield section, *(case if isinstance(case, tuple) else (case, {}))


def rendered(template, context):
    try:
        # A new environment for each, as transformers has it.
        return {"text": environment().from_string(template).render(**context)}
    except Exception as error:
        return {"error": type(error).__name__}


def main(out):
    counts = {}
    lines = []
    for section, template, context in templates():
        counts[section] = counts.get(section, 0) + 1
        entry = {"name": f"{section}-{counts[section]}", "template": template}
        if context:
            entry["context"] = context
        entry |= rendered(template, context)
        assert " at 0x" not in entry.get("text", ""), entry
        lines.append(json.dumps(entry, ensure_ascii=False))
    with open(out, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(lines) + "\n]\n")
    print(*(f"{section} {count}" for section, count in counts.items()), f"all {len(lines)}", sep=", ")


if __name__ == "__main__":
    main(*sys.argv[1:])

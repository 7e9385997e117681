"""Demo data: a year of a grocer's customers, and what a marketer would do with them.

`study` reads the files of the Complete Journey study, `people` makes up a person
for every household, `journey` turns purchases into events, `load` sends them in,
`showcase` adds segments and campaigns.
"""

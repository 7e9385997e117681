"""Calls to systems outside, for the action “Call webhook”.

queue     calls are written, held, cancelled; runs are told how they ended
send      claim, call, record
retry     when to try again; pure
signing   how a receiver knows that it was us
body      what a call says
answers   what was answered, for rules and texts of the same run
trying    one call to look at, before publishing
"""

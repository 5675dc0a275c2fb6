package main

func (c *command) plots(all []outcome) error { return nil }
